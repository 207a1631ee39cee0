"""The pre-activation ResNets of the mixup literature."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mixbench.methods import Net


class Pixels(nn.Module):
    """Normalise images (b, 3, h, w) that are in [0, 1]; channels last in memory, as is fastest."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class Block(nn.Module):
    """BN, ReLU, convolution, twice, and a shortcut.

    As in the field's reference code, and unlike He et al. (arXiv 1603.05027), the shortcut starts
    behind the first ReLU even where it is the identity.
    """

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(d_in), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Conv2d(d_in, d_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(d_out),
            nn.ReLU(),
            nn.Conv2d(d_out, d_out, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or d_in != d_out:
            self.shortcut = nn.Conv2d(d_in, d_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


def layer(d_in: int, d_out: int, blocks: int, stride: int) -> nn.Sequential:
    """One residual stage; its first block changes width and resolution."""
    rest = (Block(d_out, d_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(d_in, d_out, stride), *rest)


def stem(d: int) -> nn.Module:
    """A convolution of images, BN and ReLU."""
    convolution = nn.Conv2d(3, d, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(d), nn.ReLU())


def stem_stride2(d: int) -> nn.Module:
    """A convolution that halves the resolution, and nothing after it."""
    return nn.Conv2d(3, d, 3, stride=2, padding=1, bias=False)


def preactresnet(
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int],
    blocks: int,
    strides: Sequence[int],
    stem: Callable[[int], nn.Module] = stem,
) -> Net:
    """Four residual stages of ``blocks`` each, without a last BN and ReLU: features have a sign."""
    layers = {
        f"layer{i + 1}": layer(d_in, d_out, blocks, stride)
        for i, (d_in, d_out, stride) in enumerate(
            zip([widths[0], *widths], widths, strides, strict=False)
        )
    }
    return Net(
        pixels=Pixels(mean, std),
        stem=stem(widths[0]),
        **layers,
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head=nn.Linear(widths[-1], classes),
    )


def preactresnet18(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """AlignMixup's R-18: a last map of 512 x 4 x 4 from 32 x 32 pixels, of 8 x 8 from 64 x 64."""
    widths, strides = (64, 128, 256, 512), (1, 2, 2, 2)
    return preactresnet(classes, mean, std, widths=widths, blocks=2, strides=strides)


def preactresnet18_stride2(
    classes: int, size: int, mean: Sequence[float], std: Sequence[float]
) -> Net:
    """The R-18 of manifold mixup, PuzzleMix and Co-Mixup for 64 x 64 pixels: a last map of 4 x 4."""
    widths, strides = (64, 128, 256, 512), (1, 2, 2, 2)
    return preactresnet(
        classes, mean, std, widths=widths, blocks=2, strides=strides, stem=stem_stride2
    )


def preactresnet18_narrow(
    classes: int, size: int, mean: Sequence[float], std: Sequence[float]
) -> Net:
    """An R-18 that a CPU trains: a last map of 64 x 4 x 4 from 32 x 32 pixels."""
    widths, strides = (16, 32, 64, 64), (1, 2, 2, 1)
    return preactresnet(
        classes, mean, std, widths=widths, blocks=2, strides=strides, stem=stem_stride2
    )


def small(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """A narrow one for 8 x 8 images: a last map of 64 x 2 x 2."""
    widths, strides = (16, 32, 64, 64), (1, 2, 2, 1)
    return preactresnet(classes, mean, std, widths=widths, blocks=1, strides=strides)
