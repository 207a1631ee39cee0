"""Other libraries' ways to mix, in the training loop of their documentation."""

import ctypes
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Indexed

from mixbench.bench.data import Data, Dataset, Held, Images
from mixbench.bench.lab import Lab, build
from mixbench.bench.optimizers import optimizer
from mixbench.bench.settings import Recipe, Setting
from mixbench.bench.spec import BadInput, choose
from mixbench.bench.speed.subjects import Subject
from mixbench.bench.speed.turns import Epoch
from mixbench.bench.stepping import Plain

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images (b, 3, h, w) and labels (b,) to as many images and targets (b, c)."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits and targets (b, c) to a loss, a scalar."""

View = Callable[[Any], Tensor]
"""What is seen of an image: Pillow's to (3, h, w)."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Peer:
    """Another library's mixup. ours: the same method here; even: whether its batches have to be."""

    name: str
    ours: str
    mix: Callable[[int], Mix]
    criterion: Callable[[], Criterion] = lambda: F.cross_entropy
    even: bool = False

    def refusal(self, recipe: Recipe, data: Data) -> str:
        """Why it can't train in a setting; "" if it can."""
        if not isinstance(data, Held):
            return "it needs images that are held in memory"
        if self.even and recipe.batch % 2:
            return f"it needs batches of an even size, unlike {recipe.batch}"
        return ""


def timm_mixup(classes: int) -> Mix:
    from timm import data

    mixup: Any = data.mixup.Mixup
    mix: Mix = mixup(mixup_alpha=1.0, num_classes=classes)
    return mix


def timm_criterion() -> Criterion:
    from timm.loss import cross_entropy

    criterion: Any = cross_entropy.SoftTargetCrossEntropy
    return cast(nn.Module, criterion())


def torchvision_mixup(classes: int) -> Mix:
    from torchvision.transforms import v2

    return cast(Mix, v2.MixUp(num_classes=classes))


def torchvision_cutmix(classes: int) -> Mix:
    from torchvision.transforms import v2

    return cast(Mix, v2.CutMix(num_classes=classes))


PEERS: Mapping[str, tuple[Peer, ...]] = {
    "timm": (Peer("timm Mixup", "mixup", timm_mixup, timm_criterion, even=True),),
    "torchvision": (
        Peer("torchvision MixUp", "mixup", torchvision_mixup),
        Peer("torchvision CutMix", "cutmix", torchvision_cutmix),
    ),
}
"""By the package that has to be installed."""


def peers_of(package: str) -> tuple[Peer, ...]:
    """Those of a package. Raises BadInput if there are none, or it is not installed."""
    found = PEERS[choose(package, PEERS, "peer")]
    if not find_spec(package):
        raise BadInput(f"there is no {package} here: pip install {package}")
    return found


class Mixing(nn.Module):
    """The loss of a network on what a peer makes of images and labels."""

    def __init__(self, net: nn.Module, mix: Mix, criterion: Criterion) -> None:
        super().__init__()
        self.net, self.mix, self.criterion = net, mix, criterion

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.mix(x, y)
        return self.criterion(self.net(x), y)


def contender(peer: Peer, where: Setting, data: Data, device: torch.device) -> Subject:
    """A peer with the setting's network, whose images are normalised before, and not channels last."""
    torch.manual_seed(0)
    net = build(where, data).to(device).to(memory_format=torch.contiguous_format)
    _, net = net.split("pixels")
    mixing = Mixing(net, peer.mix(data.dataset.classes), peer.criterion()).train()
    updates, _ = optimizer(mixing, where.recipe)
    return Subject(peer.name, mixing, updates, Plain(mixing, updates))


class Examples(Indexed[tuple[Tensor, int]]):
    """Images one at a time, as datasets of torchvision give them, with labels."""

    def __init__(self, images: Images, view: View) -> None:
        self.pixels = images.x.cpu().expand(-1, 3, -1, -1).movedim(1, 3).contiguous().numpy()
        self.labels, self.view = images.y.tolist(), view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.view(Image.fromarray(self.pixels[i])), self.labels[i]


def view(recipe: Recipe, dataset: Dataset, size: int) -> View:
    """Crop, flip and normalise, as the recipe has it."""
    from torchvision.transforms import v2

    steps = [v2.RandomCrop(size, recipe.crop)] * bool(recipe.crop)
    steps += [v2.RandomHorizontalFlip()] * recipe.flip
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return cast(View, v2.Compose([*steps, v2.Normalize(dataset.mean, dataset.std)]))


def loaded(where: Setting, data: Data, lab: Lab) -> Epoch:
    """The training batches of a loader: (b, 3, h, w) and labels (b,)."""
    seen = view(where.recipe, data.dataset, data.size)
    loader = DataLoader(
        Examples(cast(Images, data.dataset.train), seen),
        where.recipe.batch,
        shuffle=True,
        num_workers=lab.workers,
        drop_last=True,
        pin_memory=lab.device.type == "cuda",
        persistent_workers=lab.workers > 0,
        worker_init_fn=_end_with_parent,
    )

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in loader:
            yield x.to(lab.device, non_blocking=True), y.to(lab.device, non_blocking=True)

    return epoch


def _end_with_parent(worker: int) -> None:
    """Where it can be (Linux), be killed with the parent: who is stopped can't see that it is gone."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
