"""Start weights with which an untrained `AutoencoderKL` already reproduces a smoothed image, so that training only adds detail.

With random weights, most of a short training goes into carrying brightness through twenty normalised layers. With these weights the
first three channels of every layer carry the image from the start. The encoder halves the image three times by averaging. The first
three channels of the latent are these means. The decoder sharpens them with a filter and doubles them three times by linear
interpolation. The last convolution of every residual branch starts at zero. All other weights are random, as usual.

At the end of the encoder and of the decoder, `norm -> SiLU -> conv` stands in the way of a linear path:

* SiLU is not linear. The carried channels therefore come in pairs +x and -x, since SiLU(x) - SiLU(-x) = x exactly.
* Group normalisation would remove the brightness. Two more channels of the first group therefore hold the constants +K and -K, far
  larger than the image: the mean of the group is then 0 and its deviation is a known constant, which gamma undoes.

The image is carried as brightness above black (x + 1), so that the zero padding of convolutions means black.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

RGB = 3  # channels carried
CONSTANT = 40.0  # K
GAIN, OFFSET = 3.0, -0.7  # latent = GAIN * brightness + OFFSET: about unit scale
AVERAGE = (0.5, 0.5, 0.0)  # taps of the halving; the convolution pads on the right and below
INTERPOLATE = (0.25, 0.5, 0.25)  # after nearest-neighbour doubling: linear interpolation
SHARPEN = (-0.25, 1.5, -0.25)  # before three such doublings, which blur


def _filter(taps: tuple[float, ...]) -> Tensor:
    row = torch.tensor(taps)
    return torch.outer(row, row)


def _carry(conv: nn.Conv2d, kernel: Tensor, bias: float = 0.0) -> None:
    """Sets the first outputs to the filtered first inputs, channel by channel."""
    conv.weight[:RGB] = 0
    conv.bias[:RGB] = bias
    for i in range(RGB):
        conv.weight[i, i] = kernel


def _pass_the_norm(shortcut: nn.Conv2d, norm: nn.GroupNorm, conv: nn.Conv2d, gain: float, offset: float) -> None:
    """Makes `norm -> SiLU -> conv` after `shortcut` give gain * x + offset in its first outputs."""
    plus, minus, constants = range(RGB), range(RGB, 2 * RGB), 2 * RGB
    group = norm.num_channels // norm.num_groups
    shortcut.weight[: constants + 2] = 0
    shortcut.bias[: constants + 2] = 0
    shortcut.weight[constants + 2 : group] *= 0.3  # the rest of the group stays small beside K
    shortcut.bias[constants], shortcut.bias[constants + 1] = CONSTANT, -CONSTANT
    norm.weight[:constants] = CONSTANT * (2 / group) ** 0.5  # the group's standard deviation
    conv.weight[:RGB] = 0
    conv.bias[:RGB] = offset
    middle = conv.weight.shape[-1] // 2
    for i, (p, m) in enumerate(zip(plus, minus, strict=True)):
        shortcut.weight[p, i], shortcut.weight[m, i] = 1, -1
        conv.weight[i, p, middle, middle], conv.weight[i, m, middle, middle] = gain, -gain


@torch.no_grad()
def start_linear(model: AutoencoderKL) -> AutoencoderKL:
    """Overwrites weights of an untrained model in place, and returns the model.

    The groups of the model must have at least eight channels. The last block of the encoder and of the decoder must change the
    number of channels, so that it has a shortcut convolution. A model with block_out_channels (16, 32, 64, 128), one layer and
    norm_num_groups 2 meets both conditions.
    """
    encoder, decoder = model.encoder, model.decoder
    same = _filter((1.0,))
    centre = _filter((0.0, 1.0, 0.0))
    for block in (module for module in model.modules() if type(module).__name__ == "ResnetBlock2D"):
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        if block.conv_shortcut is not None:
            _carry(block.conv_shortcut, same)
    _carry(encoder.conv_in, centre, bias=1.0)
    for block in encoder.down_blocks[:-1]:
        _carry(block.downsamplers[0].conv, _filter(AVERAGE))
    _pass_the_norm(
        encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out, GAIN, OFFSET
    )
    for conv in (model.quant_conv, model.post_quant_conv):
        nn.init.eye_(conv.weight[:, :, 0, 0])
        nn.init.zeros_(conv.bias)
    latents = len(model.quant_conv.bias) // 2
    encoder.conv_out.weight[latents:] *= 0.1
    model.quant_conv.bias[latents:] = -8.0  # log variance: a narrow posterior
    _carry(decoder.conv_in, _filter(SHARPEN) / GAIN, bias=-OFFSET / GAIN)
    for block in decoder.up_blocks[:-1]:
        _carry(block.upsamplers[0].conv, _filter(INTERPOLATE))
    _pass_the_norm(decoder.up_blocks[-1].resnets[0].conv_shortcut, decoder.conv_norm_out, decoder.conv_out, 1.0, -1.0)
    decoder.conv_out.weight[:, 2 * RGB + 2 :] = 0
    return model
