"""Settings: a dataset, a network and a recipe, by name."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mixbench.bench import nets
from mixbench.bench.spec import FOLDER, BadInput, choose, override, resolved, respell

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, on full batches, channels last; no mean of its weights is kept.

    optimizer: "sgd", with momentum, or "adamw".
    decay: whether weight decay is on "all" parameters, or on the "weights" of layers only, which
        are no biases, scales, or positions.
    schedule: "step" multiplies the learning rate by ``drop`` at ``milestones``, shares of the
        epochs; "cosine" lets it fall to zero. warmup: the first epochs, in which it rises.
    loss: "ce", cross-entropy, or "bce", binary cross-entropy on the softmax of logits, which wants
        a learning rate many times as large. smoothing: of targets (arXiv 1512.00567).
    holdout: share of the training images of each class that nothing is trained on; what is fitted
        after training, such as a temperature, is fitted on them.
    precision: of what the network computes; weights, targets, logits and losses are float32.
    crop: padding in pixels, of which a random crop takes back the size; of small images, which are
        held in memory. flip: left to right.
    size: pixels per side, to which random crops of large images, read from files, are brought.
        jitter: strength of their changes of brightness, contrast and saturation. lighting: standard
        deviation of those along the principal directions of ImageNet's colours. strict: a file that
        can't be read ends the training.
    """

    epochs: PositiveInt
    batch: PositiveInt = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    decay: Literal["all", "weights"] = "all"
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[Share, ...] = (0.25, 0.5, 0.75)
    drop: Share = 0.1
    warmup: NonNegativeInt = 0
    loss: Literal["ce", "bce"] = "ce"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    crop: NonNegativeInt = 4
    flip: bool = True
    size: PositiveInt | None = None
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    lighting: NonNegativeFloat = 0.0
    strict: bool = False

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The fields that have a default."""
        return {key: value for key, value in resolved(cls(epochs=1)).items() if key != "epochs"}


@dataclass(frozen=True)
class Setting:
    """A dataset of bench/data, a network of bench/nets, and a recipe."""

    data: str
    net: str
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.data}/{self.net}"

    @property
    def folder(self) -> str:
        """Where its results lie; the path of a user's own images is one name there."""
        return quote(self.data, safe=":") + str(self).removeprefix(self.data)

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """What ``text`` spells: ``cifar100/preactresnet18,epochs=200``. Raises BadInput."""
        name, *changes = text.split(",")
        if name.startswith(FOLDER) and any("=" not in change for change in changes):
            raise BadInput(f"{text!r}: a path can't have a comma")
        default = _default(name)
        recipe = override(default.recipe, changes, text)
        if recipe.warmup >= recipe.epochs:
            raise BadInput(f"{text}: warmup should be less than the {recipe.epochs} epochs")
        if recipe.nesterov and not recipe.momentum:
            raise BadInput(f"{text}: without momentum, nesterov should be False")
        return replace(default, recipe=recipe)

    def __str__(self) -> str:
        return respell(self.recipe, _default(self.name).recipe, self.name)

    def resolved(self) -> dict[str, Any]:
        return resolved(self)


def _default(name: str) -> Setting:
    """The setting of that name. One that is not listed has the recipe of its dataset's first one.

    Images of the user's own have the recipes of ImageNet. Raises BadInput.
    """
    if name in SETTINGS:
        return SETTINGS[name]
    data, net = _split(name)
    known = "imagenet" if data.startswith(FOLDER) else data
    choose(known, {setting.data for setting in SETTINGS.values()}, "dataset")
    recipes = {s.net: s.recipe for s in SETTINGS.values() if s.data == known}
    return Setting(data, nets.known(net), recipes.get(net, next(iter(recipes.values()))))


def _absolute(data: str) -> str:
    """The path of a user's own images, spelled in the one way that is the same from everywhere."""
    path = Path(data.removeprefix(FOLDER)).expanduser().resolve()
    if "," in str(path) or not str(path).isprintable():
        raise BadInput(f"a path should be printable and have no comma, unlike {str(path)!r}")
    return f"{FOLDER}{path}"


def _split(name: str) -> tuple[str, str]:
    """The dataset and the network of ``name``; a path, or the name of a network, may have slashes."""
    parts = re.fullmatch(rf"({FOLDER}.+?|[^/:]+)/((?:timm/)?[^/]+)", name)
    if not parts:
        raise BadInput(f"no setting {name!r}; there are: {', '.join(SETTINGS)}")
    data, net = parts.groups()
    return _absolute(data) if data.startswith(FOLDER) else data, net


CIFAR = Recipe(epochs=2000)  # AlignMixup's, of Tables 2 and 4
TINY_IMAGENET = Recipe(epochs=1200, batch=256, milestones=(0.5, 0.75))  # AlignMixup's
PUZZLEMIX = replace(TINY_IMAGENET, batch=100, lr=0.2, nesterov=True, loss="bce")
IMAGENET = Recipe(  # CutMix's, of Table 3
    epochs=300,
    batch=256,
    nesterov=True,
    precision="bfloat16",
    crop=0,
    size=224,
    jitter=0.4,
    lighting=0.1,
)
DEIT = Recipe(  # DeiT-S (arXiv 2012.12877) without what the paper leaves out
    epochs=300,
    batch=512,
    optimizer="adamw",
    lr=5e-4,
    weight_decay=0.05,
    decay="weights",
    schedule="cosine",
    warmup=5,
    precision="bfloat16",
    crop=0,
    size=224,
    jitter=0.3,
)
BIRDS = Recipe(  # from scratch; no paper gives one
    epochs=300,
    batch=32,
    lr=0.01,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    precision="bfloat16",
    crop=0,
    size=224,
)
SPEECH = Recipe(  # mixup's (arXiv 1710.09412, section 3.3)
    epochs=30,
    batch=100,
    optimizer="adamw",
    lr=3e-3,
    weight_decay=0,
    milestones=(1 / 3, 2 / 3),
    crop=0,
    flip=False,
)
DIGITS = Recipe(
    epochs=15,
    batch=64,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    holdout=0.2,
    crop=1,
    flip=False,
)
DIGITS_VIT = replace(
    DIGITS, epochs=30, optimizer="adamw", lr=3e-3, nesterov=False, weight_decay=0.05
)
TINY_CIFAR100 = Recipe(  # of which a run takes one core about a minute
    epochs=50, batch=64, nesterov=True, weight_decay=5e-4, schedule="cosine"
)
SHAPES = Recipe(epochs=6, batch=32, lr=0.02, nesterov=True, weight_decay=5e-4, schedule="cosine")

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("cifar100", "preactresnet18", CIFAR),
        Setting("cifar100", "wrn16-8", CIFAR),
        Setting("cifar10", "preactresnet18", CIFAR),
        Setting("cifar10", "wrn16-8", CIFAR),
        Setting("tinyimagenet", "preactresnet18", TINY_IMAGENET),
        Setting("tinyimagenet", "preactresnet18-stride2", PUZZLEMIX),
        Setting("imagenet", "resnet50", IMAGENET),
        Setting("imagenet", "vit-small", DEIT),
        Setting("cub", "resnet50", BIRDS),
        Setting("speechcommands", "resnet18", SPEECH),
        Setting("digits", "small", DIGITS),
        Setting("digits", "smallvit", DIGITS_VIT),
        Setting("tinycifar100", "preactresnet18-narrow", TINY_CIFAR100),
        Setting("shapes", "resnet18", SHAPES),
    )
}
