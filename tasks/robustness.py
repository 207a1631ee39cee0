"""Error under attack: FGSM (arXiv 1412.6572), PGD (1706.06083), APGD and AutoAttack (2003.01690).

The attacks are torchattacks', which is imported where it is used: it pins an old ``requests``.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from mixbench.tasks import Data, Inapplicable, Metric, Task, Trained, distinct, outputs
from mixbench.tasks.classification import errors_of

Name = Literal["fgsm", "pgd", "apgd", "autoattack"]
TITLES: dict[Name, str] = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "apgd": "APGD",
    "autoattack": "AutoAttack",
}
STEPS, TARGETS, QUERIES = 100, 9, 5000  # of the standard version of AutoAttack


class Contiguous(nn.Module):
    """A network whose input's gradient is contiguous in memory: torchattacks takes views of it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(Tensor.contiguous)
        logits: Tensor = self.net(x)
        return logits


def autoattack(net: nn.Module, classes: int, seed: int, **ball: Any) -> Any:
    """The standard version of AutoAttack, as its authors define it, in the ``ball`` (norm, eps).

    torchattacks.AutoAttack takes 10 steps where this takes 100, and all target classes, not nine.
    Raises Inapplicable with fewer than four classes: the loss compares the four largest logits.
    """
    import torchattacks

    if classes < 4:
        raise Inapplicable(f"AutoAttack needs four classes or more; there are {classes}")
    asked = ball | {"seed": seed}
    targets = asked | {"n_classes": min(classes, TARGETS + 1), "steps": STEPS}
    return torchattacks.MultiAttack(
        [
            torchattacks.APGD(net, steps=STEPS, **asked),
            torchattacks.APGDT(net, **targets),
            torchattacks.FAB(net, multi_targeted=True, **targets),
            torchattacks.Square(net, n_queries=QUERIES, resc_schedule=False, **asked),
        ]
    )


@dataclass(frozen=True)
class Robustness(Task):
    """Top-1 error on attacked test images, the attacker knowing the network.

    Pixels are in [0, 1]; the network, in eval mode, normalises. fgsm_eps: size of FGSM's one step,
    which is of l-infinity. eps: radius of the other attacks, in ``norm``. step, random_start: of PGD;
    steps: of PGD and APGD. The papers do not give the number of steps, 20 is that of PuzzleMix's
    code. AutoAttack has none of these. Cross-entropy is what all but AutoAttack ascend.
    """

    attacks: Annotated[tuple[Name, ...], AfterValidator(distinct)] = ("fgsm", "pgd")
    norm: Literal["linf", "l2"] = "linf"
    fgsm_eps: NonNegativeFloat = 8 / 255
    eps: NonNegativeFloat = 4 / 255
    step: NonNegativeFloat = 2 / 255
    steps: PositiveInt = 20
    random_start: bool = True

    version: ClassVar[int] = 2

    @property
    def metrics(self) -> dict[str, Metric]:
        return {name: Metric(f"{TITLES[name]} error, %", "lower") for name in self.attacks}

    def check(self, data: Data) -> None:
        if self.norm != "linf" and "fgsm" in self.attacks:
            raise ValueError(f"fgsm is an attack of linf, not of {self.norm}; try attacks=pgd")
        try:
            import torchattacks  # noqa: F401
        except ImportError as error:
            install = "pip install 'mixbench[attacks]'"
            raise ValueError(f"robustness needs torchattacks: {install} ({error})") from None

    def evaluate(self, trained: Trained) -> dict[str, float]:
        net, seed = trained.net.requires_grad_(False), drawn_seed()
        scores: dict[str, float] = {}
        for name in self.attacks:
            torch.manual_seed(seed)  # so that no number depends on what else is asked
            scores[name] = self._error(name, net, trained.data.batches("test"))
        return scores

    @torch.enable_grad()
    def attacked(self, name: Name, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Images (b, 3, h, w) in [0, 1], at most the radius away from ``x``, of labels ``y`` (b,).

        Freeze ``net``: gradients of its parameters would cost time. Raises ValueError if a pixel
        of ``x`` is not in [0, 1]: torchattacks would clamp it, which is no attack of that radius.
        """
        _check_range(x)
        if not (self.fgsm_eps if name == "fgsm" else self.eps):
            return x  # torchattacks' l2 divides by the radius
        z: Tensor = self._attack(name, net, x)(x.contiguous(), y)
        return z.detach()

    def _attack(self, name: Name, net: nn.Module, x: Tensor) -> Any:
        """The attack, of torchattacks; to be made for each batch, lest all have the same seed."""
        import torchattacks

        victim = Contiguous(net).eval()  # torchattacks puts it back into the mode that it was in
        ball = {"norm": self.norm.capitalize(), "eps": self.eps}
        walk = (self.eps, self.step, self.steps, self.random_start)
        match name, self.norm:
            case "fgsm", _:
                return torchattacks.FGSM(victim, self.fgsm_eps)
            case "pgd", "linf":
                return torchattacks.PGD(victim, *walk)
            case "pgd", _:  # gradients are of the batch's mean, and of sure predictions tiny
                return torchattacks.PGDL2(victim, *walk, eps_for_division=1e-30)
            case "apgd", _:
                return torchattacks.APGD(victim, steps=self.steps, seed=drawn_seed(), **ball)
            case _:
                return autoattack(victim, net(x[:1]).shape[1], drawn_seed(), **ball)

    def _error(
        self, name: Name, net: nn.Sequential, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> float:
        attacked = self._pairs(name, net, batches)
        return errors_of(outputs(net, attacked, f"test images under {name}"))["top1"]

    def _pairs(
        self, name: Name, net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in batches:
            yield self.attacked(name, net, x, y), y


def drawn_seed() -> int:
    """From torch's generator; APGD, FAB and Square seed it themselves, with 0 or the time."""
    return int(torch.randint(2**31, ()))


def _check_range(x: Tensor) -> None:
    low, high = (bound.item() for bound in x.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"attacks need pixels in [0, 1]; these are in [{low}, {high}]")
