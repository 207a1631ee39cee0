"""Settings: a dataset, a network and a recipe, by name."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mixbench.bench.spec import choose, override, resolved, respell


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, on full batches.

    optimizer: "sgd", with momentum, or "adamw".
    schedule: "step" divides the learning rate by ten after each quarter of the epochs, "cosine"
        lets it fall to zero.
    crop: padding in pixels, of which a random crop takes back the size. flip: left to right.
    """

    epochs: PositiveInt
    batch: PositiveInt = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    crop: NonNegativeInt = 4
    flip: bool = True


@dataclass(frozen=True)
class Setting:
    """A dataset of bench/data, a network of bench/nets, and a recipe."""

    data: str
    net: str
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.data}/{self.net}"

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """What ``text`` spells: ``cifar100/preactresnet18,epochs=200``. Raises BadInput."""
        name, *changes = text.split(",")
        default = SETTINGS[choose(name, SETTINGS, "setting")]
        return cls(default.data, default.net, override(default.recipe, changes, text))

    def __str__(self) -> str:
        return respell(self.recipe, SETTINGS[self.name].recipe, self.name)

    def resolved(self) -> dict[str, Any]:
        return resolved(self)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            "digits",
            "small",
            Recipe(
                epochs=12,
                batch=64,
                nesterov=True,
                weight_decay=5e-4,
                schedule="cosine",
                crop=1,
                flip=False,
            ),
        ),
        Setting(
            "digits",
            "smallvit",
            Recipe(
                epochs=30,
                batch=64,
                optimizer="adamw",
                lr=3e-3,
                weight_decay=0.05,
                schedule="cosine",
                crop=1,
                flip=False,
            ),
        ),
        Setting("cifar100", "preactresnet18", Recipe(epochs=2000)),  # AlignMixup's, of Table 2
    )
}
