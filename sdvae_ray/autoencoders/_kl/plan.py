"""The choices of the inference form of AutoencoderKL for one device and precision; no timing makes them.

Two processes with equal devices make equal choices, so a run gives the same bytes on each of its workers. `torch.compile` and
cuDNN's autotuning choose kernels by timing, and the form therefore uses neither.
"""

import importlib.util
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """The choices of one inference form.

    dtype          the type of weights and activations; the statistics of group normalisation are float32, or float64 for float64
    channels_last  activations lie in memory as (N, H, W, C)
    fused          group normalisation with SiLU, and residual sums, by the Triton kernels: CUDA and channels_last alone
    fold           True: the decoder's nearest-neighbour upsampling and the 3 x 3 convolution behind it are one map of the
                   small image, of 16 taps in place of 36: four 2 x 2 convolutions; if fused, a transposed convolution, which
                   cuDNN runs as fast and without a last interleaving. False: two steps, as in diffusers
    """

    dtype: torch.dtype
    channels_last: bool
    fused: bool
    fold: bool

    @staticmethod
    def of(device: torch.device, dtype: torch.dtype) -> "Plan":
        """Return the plan of a device: everything on CUDA with Triton; on a CPU, NCHW and torch's own kernels.

        On a CPU, torch's group normalisation of channels_last activations loses the digits of dark images (torch 2.15).
        """
        on_gpu = device.type == "cuda"
        fused = on_gpu and dtype != torch.float64 and importlib.util.find_spec("triton") is not None
        return Plan(dtype, channels_last=on_gpu, fused=fused, fold=True)
