"""The names of tensors in checkpoints of an AutoencoderKL, and its config where no config.json tells it.

Two kinds of names are brought to those of diffusers: the names of the latent-diffusion code (encoder.down.0.block.0, mid.attn_1.q),
by diffusers' own conversion, also from a whole Stable Diffusion checkpoint; and diffusers' earlier names of attention
(query, key, value, proj_attn).
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_PREFIXES = ("first_stage_model.", "vae.")  # of the autoencoder in a whole checkpoint
_LATENT_DIFFUSION = re.compile(r"(encoder|decoder)\.(down|up)\.\d+\.|(encoder|decoder)\.mid\.")
_OWN = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")
_EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = re.compile(rf"(attentions\.\d+\.)({'|'.join(_EARLIER)})\.")
LARGEST_GROUPS = 32  # of the latent-diffusion code

Shapes = Mapping[str, tuple[int, ...]]


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Return name in the autoencoder -> name in the checkpoint, without tensors of a discriminator, a U-Net or a text encoder."""
    names = list(names)
    prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in names)), "")
    own = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    if any(map(_LATENT_DIFFUSION.match, own)):
        return {short: name for short, name in own.items() if _OWN.match(short)}
    return own


def in_diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an AutoencoderKL under the names of diffusers.

    A tensor that the conversion does not know keeps its name, so that it is refused later by its name.
    """
    own = {short: state[name] for short, name in own_names(state).items()}
    if any(map(_LATENT_DIFFUSION.match, own)):
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        blocks = [None] * _levels(own)
        converted = convert_ldm_vae_checkpoint(dict(own), {"down_block_types": blocks, "up_block_types": blocks})
        used = {tensor.data_ptr() for tensor in converted.values()}
        return converted | {name: tensor for name, tensor in own.items() if tensor.data_ptr() not in used}
    return {
        _ATTENTION.sub(lambda match: f"{match[1]}{_EARLIER[match[2]]}.", name): tensor for name, tensor in own.items()
    }


def config_of_shapes(shapes: Shapes) -> dict[str, Any]:
    """Return the config of the AutoencoderKL whose tensors have these shapes under latent-diffusion names, as far as it is told.

    The number of groups of its normalisations is that of the latent-diffusion code, 32, or the largest that divides the channels.
    Factors of the latents are not told by shapes. Raises ValueError for tensors under diffusers' names: diffusers writes a
    config.json beside them, which can have any number of groups; KeyError for another network.
    """
    own = {short: shapes[name] for short, name in own_names(shapes).items()}
    levels = _levels(own)
    if not levels:
        raise ValueError("its tensors do not have the names of the latent-diffusion code")
    channels = [own[f"encoder.down.{number}.block.0.conv1.weight"][0] for number in range(levels)]
    return {
        "in_channels": own["encoder.conv_in.weight"][1],
        "out_channels": own["decoder.conv_out.weight"][0],
        "latent_channels": own["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": _count(own, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": math.gcd(LARGEST_GROUPS, *channels),
        "mid_block_add_attention": any(name.startswith("encoder.mid.attn_1") for name in own),
        "use_quant_conv": "quant_conv.weight" in own,
        "use_post_quant_conv": "post_quant_conv.weight" in own,
        "force_upcast": True,  # not told by shapes; right for every model, and slower in float16 alone
    }


def _levels(names: Iterable[str]) -> int:
    return _count(names, "encoder.down.")


def _count(names: Iterable[str], prefix: str) -> int:
    """Return how many numbers follow the prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})
