"""Any diffusers AutoencoderTiny and every TAESD: the small students of the large autoencoders.

They are distilled to share the latents of their teachers, as scaled for the diffusion model, so that their own factor is 1; there
is no posterior. Latents are not rounded to bytes, as the class's own forward rounds them: the engine decides how to store them. The
class takes and gives [-1, 1], as the other autoencoders do, and maps to TAESD's own [0, 1] inside.

A folder has config.json and weights, or the two files of an original, such as taesd_encoder.safetensors and
taesd_decoder.safetensors. Which of the family an original is, its tensors tell: taesd, taesdxl, taesd3, taef1, taef2 or taesana.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sdvae_ray.autoencoders import _diffusers, _taesd
from sdvae_ray.contracts import Checkpoint, Posterior
from sdvae_ray.errors import ConfigError, WeightsError, did_you_mean, one_line
from sdvae_ray.state_dicts import DAMAGE, SAFETENSORS, TORCH_SUFFIXES, fill, read_state_dict

HAS_POSTERIOR = False
SUBFOLDER = "vae"  # of a whole pipeline
_HALVES = ("encoder", "decoder")

# the configs of public models, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "taesd": {"latent_channels": 4},
    "taesd3": {"latent_channels": 16},
    "tiny": {
        "latent_channels": 4,
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    },
}
_OWN = {"taef2": (_taesd.POOLED, 32), "taesana": (_taesd.F32, 32)}  # architectures that diffusers lacks

_INPUT, _FOUR, _MANY = "RGB, height and width multiples of 8", "4 x S/8 x S/8", "16 x S/8 x S/8"
_FILES = (
    "a folder with {0}_encoder and {0}_decoder (.safetensors or .pth) of github.com/madebyollin/taesd; latents of {1}"
)
CHECKPOINTS = (
    Checkpoint("madebyollin/taesd", "MIT", _INPUT, _FOUR, 2_445_063, note="latents of Stable Diffusion 1.x and 2.x"),
    Checkpoint("madebyollin/taesdxl", "MIT", _INPUT, _FOUR, 2_445_063, note="latents of SDXL"),
    Checkpoint("madebyollin/taesd3", "MIT", _INPUT, _MANY, 2_458_899, note="latents of SD3"),
    Checkpoint("madebyollin/taef1", "MIT", _INPUT, _MANY, 2_458_899, note="latents of FLUX.1"),
    Checkpoint(None, "MIT", _INPUT, "32 x S/8 x S/8", 2_677_027, note=_FILES.format("taef2", "FLUX.2")),
    Checkpoint(
        None,
        "MIT",
        "RGB, height and width multiples of 32",
        "32 x S/32 x S/32",
        9_558_051,
        note=_FILES.format("taesana", "DC-AE f32c32 (SANA)"),
    ),
)


class DiffusersTiny(_diffusers.DiffusersAutoencoder):
    def encode(self, rgb: Tensor) -> Posterior:
        with self._precision(rgb):
            latent = self.model.encode(self._signed(rgb)).latents
        return Posterior(mean=latent.float(), logvar=None)


def load(
    weights: Path | None, *, architecture: str = "taesd", weights_seed: int = 0, prefix: str | None = None
) -> DiffusersTiny:
    """Return the autoencoder of the folder `weights`; None: random weights of `architecture`, drawn from `weights_seed`.

    prefix: the beginning of the names of the two original files, for a folder with several pairs: taesdxl for
    taesdxl_encoder.safetensors. Raises WeightsError, in one line, for files that are not those of one autoencoder.
    """
    from diffusers import AutoencoderTiny

    if weights is not None and (files := _halves(weights, prefix)):
        return _named(_original(weights, files))
    if weights is None and architecture in _OWN:
        return _named(_diffusers.at_random(lambda: _taesd.Taesd(*_OWN[architecture]), weights_seed))
    if weights is None and architecture not in ARCHITECTURES:
        known = [*ARCHITECTURES, *_OWN]
        raise ConfigError(f"diffusers_tiny: no architecture {architecture!r}{did_you_mean(architecture, known)}")
    return _named(
        _diffusers.build("diffusers_tiny", AutoencoderTiny, ARCHITECTURES, weights, architecture, weights_seed)
    )


def latent_factors(weights: Path, *, prefix: str | None = None, **options: Any) -> dict[str, float]:
    """Return scaling_factor and shift_factor of the config of `weights`; the latents of the original files have the factor 1."""
    return {"scaling_factor": 1.0} if _halves(weights, prefix) else _diffusers.latent_factors(weights, **options)


def _named(model: Any) -> DiffusersTiny:
    if isinstance(model, _taesd.Taesd):
        return DiffusersTiny(model, "diffusers_tiny", model.vae_scale_factor)
    return DiffusersTiny(model, "diffusers_tiny", 2 ** (len(model.config["encoder_block_out_channels"]) - 1))


def _halves(weights: Path, prefix: str | None) -> list[Path]:
    """Return the files of encoder and decoder of a folder in the original names; empty if it is no such folder. Raises WeightsError
    for a folder with several pairs, of which `prefix` names none."""
    if not weights.is_dir() or (weights / "config.json").exists():
        if prefix is not None:
            raise WeightsError(f"diffusers_tiny: prefix is for a folder of original files, which {weights} is not")
        return []
    names = sorted(path.name for path in weights.iterdir())
    pairs: dict[str, list[Path]] = {}
    for suffix in (SAFETENSORS, *TORCH_SUFFIXES):  # of one name in both forms, the safer
        for name in (name for name in names if name.endswith(f"encoder{suffix}")):
            beginning = name.removesuffix(f"encoder{suffix}")
            if f"{beginning}decoder{suffix}" in names:
                pairs.setdefault(beginning, [weights / f"{beginning}{half}{suffix}" for half in _HALVES])
    known = {beginning.rstrip("_"): files for beginning, files in pairs.items()}
    if prefix is not None and prefix not in known:
        raise WeightsError(
            f"diffusers_tiny: {weights} has no pair {prefix}_encoder and {prefix}_decoder{did_you_mean(prefix, known)}"
        )
    if prefix is None and len(known) > 1:
        raise WeightsError(
            f"diffusers_tiny: {weights} has several pairs of files: {', '.join(sorted(known))}; prefix: NAME chooses one of them"
        )
    return known[prefix] if prefix is not None else next(iter(known.values()), [])


def _original(weights: Path, files: list[Path]) -> Any:
    """Return the network of the two files of an original, in float32, for inference. Raises WeightsError unless its tensors are
    exactly those of one of the family."""
    from diffusers import AutoencoderTiny

    try:
        encoder, decoder = map(read_state_dict, files)
        form, channels = _taesd.form_of(encoder, decoder)
    except DAMAGE as error:
        raise WeightsError(
            f"diffusers_tiny: {files[0]} and {files[1].name} are not the halves of a TAESD: {one_line(error)}"
        ) from error
    if form != _taesd.PLAIN:
        model = _taesd.Taesd(form, channels)
        state = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
        state |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
        try:
            fill(model, state)
        except DAMAGE as error:
            raise WeightsError(f"diffusers_tiny: cannot load a TAESD from {weights}: {one_line(error, 300)}") from error
        return model.float().eval().requires_grad_(False)

    def tensors() -> dict[str, Tensor]:
        state = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
        for name, tensor in decoder.items():
            # the original's first layer is the clamp of the latent, which has no number here
            number, _, rest = name.partition(".")
            state[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
        return state

    config = {"latent_channels": channels}
    return _diffusers.filled("diffusers_tiny", AutoencoderTiny, weights, config, tensors).eval().requires_grad_(False)
