"""ResNets of torchvision (He et al., arXiv 1512.03385), as stages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.methods import Net

if TYPE_CHECKING:
    from torchvision.models import ResNet


def staged(model: "ResNet", mean: Sequence[float], std: Sequence[float]) -> Net:
    """The stages of a model of torchvision, which share its modules."""
    return Net(
        pixels=Pixels(mean, std),
        stem=nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
        layer1=model.layer1,
        layer2=model.layer2,
        layer3=model.layer3,
        layer4=model.layer4,
        pool=nn.Sequential(model.avgpool, nn.Flatten()),
        head=model.fc,
    )


def resnet18(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """ResNet-18: a last map of 512 x 7 x 7 from 224 x 224 pixels."""
    from torchvision import models  # takes seconds

    return staged(models.resnet18(num_classes=classes), mean, std)


def resnet50(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """The R-50 of the papers: a last map of 2048 x 7 x 7 from 224 x 224 pixels."""
    from torchvision import models  # takes seconds

    return staged(models.resnet50(num_classes=classes), mean, std)
