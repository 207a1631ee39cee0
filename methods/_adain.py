"""AdaIN's style transfer, trained and frozen (Huang and Belongie, ICCV 2017, arXiv 1703.06868)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mixbench.methods._base import Lacking

RELEASES = "github.com/naoto0804/pytorch-AdaIN/releases"


class AdaIN(nn.Module):
    """An encoder of images, (b, 3, h, w) in [0, 1], and a decoder of its features.

    Both return the type that they were given, in whatever autocast computes.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x)
        return features.to(x.dtype)

    def decode(self, features: Tensor) -> Tensor:
        x: Tensor = self.decoder(features)
        return x.to(features.dtype)


def restyle(content: Tensor, style: Tensor) -> Tensor:
    """Features (b, d, h, w) with the mean and the deviation of each channel of ``style`` (eq. 8)."""
    (mean, std), (style_mean, style_std) = _statistics(content), _statistics(style)
    return style_std * (content - mean) / std + style_mean


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(features, (2, 3), keepdim=True)
    return mean, (var + 1e-5).sqrt()


def load(encoder: str, decoder: str) -> AdaIN:
    """The networks in these files. Raises ValueError, which says where to get them."""
    with torch.device("meta"):
        networks = {"encoder": vgg(), "decoder": inverse_vgg()}
    for part, file in (("encoder", encoder), ("decoder", decoder)):
        _fill(networks[part], part, file)
    return AdaIN(**networks)


def vgg() -> nn.Sequential:
    """VGG-19 up to relu4_1, at an eighth of the resolution; its first layer normalises images."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 1),
        *_convolution(3, 64),
        *_convolution(64, 64),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(64, 128),
        *_convolution(128, 128),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(128, 256),
        *_convolution(256, 256),
        *_convolution(256, 256),
        *_convolution(256, 256),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(256, 512),
    )


def inverse_vgg() -> nn.Sequential:
    """The mirror image of ``vgg``, without a last ReLU."""
    return nn.Sequential(
        *_convolution(512, 256),
        nn.Upsample(scale_factor=2),
        *_convolution(256, 256),
        *_convolution(256, 256),
        *_convolution(256, 256),
        *_convolution(256, 128),
        nn.Upsample(scale_factor=2),
        *_convolution(128, 128),
        *_convolution(128, 64),
        nn.Upsample(scale_factor=2),
        *_convolution(64, 64),
        *_convolution(64, 3)[:-1],
    )


def _convolution(d_in: int, d_out: int) -> tuple[nn.Module, ...]:
    return nn.ReflectionPad2d(1), nn.Conv2d(d_in, d_out, 3), nn.ReLU()


def _fill(network: nn.Module, part: str, file: str) -> None:
    """Take the weights from ``file``; what else is in it, such as deeper layers, is left out."""
    path = Path(torch.hub.get_dir(), "checkpoints", file)
    if not path.is_file():
        raise Lacking(
            f"there is no {file}: take it from {RELEASES} and put it into torch.hub's checkpoints "
            f"folder (TORCH_HOME), or name another by its whole path, {part}=/..."
        )
    known = network.state_dict().keys()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kept = {key: value for key, value in state.items() if key in known}
        network.load_state_dict(kept, assign=True)
    except Exception as error:  # what a damaged file may raise can be anything
        raise Lacking(
            f"{file} can't be read as the weights of AdaIN's {part}: take it anew from {RELEASES}"
        ) from error
