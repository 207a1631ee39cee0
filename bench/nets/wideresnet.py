"""The wide ResNets (Zagoruyko and Komodakis, arXiv 1605.07146) of the mixup literature."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.methods import Net


class Block(nn.Module):
    """BN, ReLU, convolution, twice, and a shortcut.

    As in AlignMixup's code, and unlike the paper's, convolutions have a bias, the second one
    carries the stride, and the shortcut starts before the first BN even where it is a convolution.
    """

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(d_in),
            nn.ReLU(),
            nn.Conv2d(d_in, d_out, 3, padding=1),
            nn.BatchNorm2d(d_out),
            nn.ReLU(),
            nn.Conv2d(d_out, d_out, 3, stride, padding=1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or d_in != d_out:
            self.shortcut = nn.Conv2d(d_in, d_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


def layer(d_in: int, d_out: int, blocks: int, stride: int) -> nn.Sequential:
    """One residual stage; its first block changes width and resolution."""
    rest = (Block(d_out, d_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(d_in, d_out, stride), *rest)


def wideresnet(
    classes: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    depth: int,
    width: int,
) -> Net:
    """WRN-``depth``-``width``: a last map of 64 ``width`` x 8 x 8 from 32 x 32 pixels.

    The last BN and ReLU are layer4, so that the last maps leave it as in other networks.
    """
    d, blocks = 16 * width, (depth - 4) // 6
    return Net(
        pixels=Pixels(mean, std),
        stem=nn.Conv2d(3, 16, 3, padding=1),
        layer1=layer(16, d, blocks, 1),
        layer2=layer(d, 2 * d, blocks, 2),
        layer3=layer(2 * d, 4 * d, blocks, 2),
        layer4=nn.Sequential(nn.BatchNorm2d(4 * d, momentum=0.9), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        head=nn.Linear(4 * d, classes),
    )


wrn16_8 = partial(wideresnet, depth=16, width=8)
wrn28_10 = partial(wideresnet, depth=28, width=10)
