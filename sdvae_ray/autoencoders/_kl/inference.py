"""AutoencoderKL for inference: the function of diffusers' network, built once from its weights and arranged for speed.

What differs from diffusers' own forward, and only in the order of sums: weights and activations have the type of the precision
(no autocast); the encoder's last two convolutions are one, in the type of the statistics; the decoder's nearest-neighbour
upsampling and the convolution behind it are one map (`Plan.fold`); group normalisation, SiLU and residual sums may be fused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.autoencoders._kl.operations import Activation, Convolution, Norm, Operations, Plain
from sdvae_ray.autoencoders._kl.plan import Plan

_LOGVAR = (-30.0, 20.0)  # the range of diffusers' DiagonalGaussianDistribution


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Return why the inference form cannot replace an AutoencoderKL of diffusers with this config; None if it can.

    Every public AutoencoderKL (SD 1.x, SDXL, SD3, FLUX.1) is supported: blocks DownEncoderBlock2D and UpDecoderBlock2D, with SiLU.
    """
    kinds = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
    if others := kinds - {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        return f"it has blocks of type {sorted(others)[0]}"
    if (activation := config.get("act_fn", "silu")) not in ("silu", "swish"):
        return f"its activation is {activation}"
    return None


@dataclass(frozen=True)
class _Resnet:
    norms: tuple[Norm, Norm]
    convolutions: tuple[Convolution, Convolution]
    shortcut: Convolution | None


@dataclass(frozen=True)
class _Attention:
    norm: Norm
    heads: int
    qkv: Convolution  # weight (3C, C): query, key and value in one product
    out: Convolution


@dataclass(frozen=True)
class _Level:
    """The blocks of one size, and the convolutions that lead to the next size; None in the last level."""

    resnets: Sequence[_Resnet]
    change: Sequence[Convolution] | None


class KLInference:
    """The inference form of one AutoencoderKL on one device. It copies the weights: the model is not needed afterwards.

    Raises ValueError for a model that is `unsupported`.
    """

    def __init__(self, model: Any, plan: Plan, device: torch.device) -> None:
        if problem := unsupported(model.config):
            raise ValueError(f"no inference form: {problem}")
        self.plan, self.device = plan, device
        self.wide = (
            torch.float64 if plan.dtype == torch.float64 else torch.float32
        )  # of statistics, posterior and output
        self.operations = _operations(plan, model.config["norm_num_groups"])
        encoder, decoder = model.encoder, model.decoder
        self._encoder_in = self._convolution(encoder.conv_in)
        self._encoder_levels = [self._level(block, block.downsamplers) for block in encoder.down_blocks]
        self._encoder_middle = self._middle(encoder.mid_block)
        self._encoder_norm = self._norm(encoder.conv_norm_out)
        self._moments = self._joined(encoder.conv_out, model.quant_conv)
        post = model.post_quant_conv
        self._post_quant = None if post is None else self._convolution(post, self.wide)
        self._decoder_in = self._convolution(decoder.conv_in)
        self._decoder_middle = self._middle(decoder.mid_block)
        self._decoder_levels = [self._level(block, block.upsamplers, up=True) for block in decoder.up_blocks]
        self._decoder_norm = self._norm(decoder.conv_norm_out)
        self._decoder_out = self._convolution(decoder.conv_out)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logvar of the posterior of images (M, 3, S, S) in [-1, 1]: (M, Z, s, s) float32
        (float64 for float64).
        """
        operations = self.operations
        x = operations.convolve(self._laid(images), self._encoder_in, padding=1)
        for level in self._encoder_levels:
            for number, resnet in enumerate(level.resnets):
                x = self._resnet(x, resnet, pad=level.change is not None and number == len(level.resnets) - 1)
            if level.change is not None:
                x = operations.convolve(x.values, level.change[0], stride=2)
        x = self._run_middle(x, self._encoder_middle)
        last = operations.normalise(x, self._encoder_norm, True, self.wide)
        moments = functional.conv2d(last, self._moments.weight, self._moments.bias, padding=1)
        mean, logvar = moments.contiguous().chunk(2, dim=1)
        return mean, logvar.clamp(*_LOGVAR)

    def decode(self, latent: Tensor) -> Tensor:
        """Return images (M, 3, S, S) float32 (float64 for float64), about [-1, 1]; latent: (M, Z, s, s), unscaled."""
        operations, latent = self.operations, latent.to(self.wide)
        if self._post_quant is not None:
            latent = functional.conv2d(latent, self._post_quant.weight, self._post_quant.bias)
        x = operations.convolve(self._laid(latent), self._decoder_in, padding=1)
        x = self._run_middle(x, self._decoder_middle)
        for level in self._decoder_levels:
            for resnet in level.resnets:
                x = self._resnet(x, resnet)
            if level.change is not None:
                x = self._upsample(x, level.change)
        last = operations.normalise(x, self._decoder_norm, True, self.plan.dtype)
        return functional.conv2d(last, self._decoder_out.weight, self._decoder_out.bias, padding=1).to(self.wide)

    def _laid(self, values: Tensor) -> Tensor:
        layout = torch.channels_last if self.plan.channels_last else torch.contiguous_format
        return values.to(self.plan.dtype).contiguous(memory_format=layout)

    def _resnet(self, x: Activation, resnet: _Resnet, pad: bool = False) -> Activation:
        operations, dtype = self.operations, self.plan.dtype
        inner = operations.convolve(
            operations.normalise(x, resnet.norms[0], True, dtype), resnet.convolutions[0], padding=1
        )
        inner = operations.convolve(
            operations.normalise(inner, resnet.norms[1], True, dtype), resnet.convolutions[1], padding=1
        )
        return operations.add(inner, x if resnet.shortcut is None else operations.project(x, resnet.shortcut), pad)

    def _run_middle(self, x: Activation, blocks: Sequence[_Resnet | _Attention]) -> Activation:
        for block in blocks:
            x = self._resnet(x, block) if isinstance(block, _Resnet) else self._attend(x, block)
        return x

    def _attend(self, x: Activation, attention: _Attention) -> Activation:
        """Return x plus its self-attention over the pixels, which are the rows of one matrix in channels_last."""
        normalised = self.operations.normalise(x, attention.norm, False, self.plan.dtype)
        batch, channels, height, width = normalised.shape
        pixels = normalised.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        joined = functional.linear(pixels, attention.qkv.weight, attention.qkv.bias)
        query, key, value = joined.view(batch, height * width, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out = functional.linear(mixed, attention.out.weight, attention.out.bias)
        return self.operations.add(
            Activation(self._laid(out.view(batch, height, width, channels).permute(0, 3, 1, 2))), x
        )

    def _upsample(self, x: Activation, change: Sequence[Convolution]) -> Activation:
        if self.plan.fold:
            return self.operations.upsample(x.values, change)
        return self.operations.convolve(functional.interpolate(x.values, scale_factor=2.0), change[0], padding=1)

    def _tensor(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        moved = tensor.detach().to(self.device, dtype or self.plan.dtype)
        return (
            moved.contiguous(memory_format=torch.channels_last)
            if self.plan.channels_last and moved.ndim == 4
            else moved
        )

    def _convolution(self, module: Any, dtype: torch.dtype | None = None) -> Convolution:
        return Convolution(self._tensor(module.weight, dtype), self._tensor(module.bias, dtype))

    def _joined(self, first: Any, second: Any) -> Convolution:
        """Return two convolutions, the second of one pixel, as one of type `wide`; the sums over channels are in float64."""
        if second is None:
            return self._convolution(first, self.wide)
        mixing = second.weight.detach().double().flatten(1)
        weight = torch.einsum("om,mchw->ochw", mixing, first.weight.detach().double())
        bias = mixing @ first.bias.detach().double() + second.bias.detach().double()
        return Convolution(self._tensor(weight, self.wide), self._tensor(bias, self.wide))

    def _norm(self, module: Any) -> Norm:
        weight, bias = self._tensor(module.weight, self.wide), self._tensor(module.bias, self.wide)
        return Norm(module.num_groups, module.eps, weight, bias)

    def _block(self, module: Any) -> _Resnet:
        shortcut = None if module.conv_shortcut is None else self._convolution(module.conv_shortcut)
        return _Resnet(
            (self._norm(module.norm1), self._norm(module.norm2)),
            (self._convolution(module.conv1), self._convolution(module.conv2)),
            shortcut,
        )

    def _level(self, module: Any, changes: Any, up: bool = False) -> _Level:
        change = None
        if changes is not None:
            change = self._folded(changes[0].conv) if up and self.plan.fold else [self._convolution(changes[0].conv)]
        return _Level([self._block(resnet) for resnet in module.resnets], change)

    def _middle(self, module: Any) -> list[_Resnet | _Attention]:
        blocks: list[_Resnet | _Attention] = [self._block(module.resnets[0])]
        for attention, resnet in zip(module.attentions, module.resnets[1:], strict=True):
            if attention is not None:
                projections = (attention.to_q, attention.to_k, attention.to_v)
                weight = torch.cat([projection.weight for projection in projections])
                bias = torch.cat([projection.bias for projection in projections])
                qkv = Convolution(self._tensor(weight), self._tensor(bias))
                out = self._convolution(attention.to_out[0])
                blocks.append(_Attention(self._norm(attention.group_norm), attention.heads, qkv, out))
            blocks.append(self._block(resnet))
        return blocks

    def _folded(self, module: Any) -> list[Convolution]:
        """Return a nearest-neighbour upsampling and the 3 x 3 convolution behind it as the convolutions of `Operations.upsample`.

        A pixel of the small image becomes four equal pixels, so the taps that meet one pixel of the small image are summed, in
        float64. Along one axis the three taps of an even row 2i meet the rows i - 1, i, i; those of an odd row meet i, i, i + 1.
        """
        weight, bias = module.weight.detach().double(), self._tensor(module.bias)
        if self.plan.fused:
            taps = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float64, device=weight.device)
            summed = torch.einsum("ai,bj,ocij->coab", taps, taps, weight)
            return [Convolution(self._tensor(summed), bias)]
        even_odd = torch.tensor(
            [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float64, device=weight.device
        )
        return [
            Convolution(self._tensor(torch.einsum("ai,bj,ocij->ocab", rows, columns, weight)), bias)
            for rows in even_odd
            for columns in even_odd
        ]


def _operations(plan: Plan, groups: int) -> Operations:
    if not plan.fused:
        return Plain()
    from sdvae_ray.autoencoders._kl.fused import Fused

    return Fused(groups)
