"""How a network behaves between images (as in Figure 2 of mixup, arXiv 1710.09412)."""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from mixbench.tasks import Answer, Metric, Task, Trained

BATCH = 128


def _is_odd(points: int) -> int:
    if points % 2 == 0:
        raise ValueError("it should be odd, so that one point is the middle")
    return points


@dataclass(frozen=True)
class Landscape(Task):
    """Accuracy and confidence on the straight lines between test images of different classes.

    Right is the class of the nearer end; in the middle, either. Deviation is that of the first
    end's probability from its share of the pixels: 0 is linear behaviour. Metrics are of what lies
    in between, curves also of both ends.

    pairs: of images, the same for all networks. points: on each line, with both ends.
    """

    pairs: PositiveInt = 1000
    points: Annotated[int, Field(ge=3), AfterValidator(_is_odd)] = 11

    metrics: ClassVar = {
        "error": Metric("error between images, %", "lower"),
        "neither": Metric("classes of neither image, %, between images", "lower", main=False),
        "deviation": Metric("deviation from linear", "lower", ".3f"),
    }

    @torch.no_grad()
    def evaluate(self, trained: Trained) -> Answer:
        labels = trained.outputs("test").labels.cpu()
        pick, ends = random_pairs(labels, self.pairs).unique(return_inverse=True)
        images, y = picked(trained.data.batches("test"), pick), labels[pick]
        t = torch.arange(self.points, dtype=torch.float64) / (self.points - 1)
        first, second, confidence = torch.cat(
            [walk(trained.net, images[some], y[some], t) for some in ends.split(BATCH)], 2
        )
        either, middle = first + second, self.points // 2
        right = torch.cat([first[:middle], either[middle : middle + 1], second[middle + 1 :]])
        accuracy, either = 100 * right.mean(1), 100 * either.mean(1)
        return {
            "error": 100 - accuracy[1:-1].mean().item(),
            "neither": 100 - either[1:-1].mean().item(),
            "deviation": (confidence - (1 - t)[:, None])[1:-1].abs().mean().item(),
            "position": t.tolist(),
            "accuracy": accuracy.tolist(),
            "either": either.tolist(),
            "confidence": confidence.mean(1).tolist(),
        }


def random_pairs(labels: Tensor, n: int) -> Tensor:
    """Indices (n, 2) of images of different classes, decided by the labels (m,) alone.

    Raises ValueError if all are of one class.
    """
    draw = torch.Generator().manual_seed(0)
    first = torch.randint(len(labels), (n,), generator=draw)
    sizes = labels.bincount()
    size, end = sizes[labels[first]], sizes.cumsum(0)[labels[first]]
    others = len(labels) - size
    if not others.all():
        raise ValueError("there should be test images of 2 classes or more, not of one")
    # In the order of classes, all others lie after the end of a class, around to its beginning.
    step = (torch.rand(n, generator=draw, dtype=torch.float64) * others).long()
    second = labels.argsort(stable=True)[(end + step) % len(labels)]
    return torch.stack([first, second], 1)


def picked(batches: Iterable[tuple[Tensor, Tensor]], pick: Tensor) -> Tensor:
    """The images of a set at the sorted indices ``pick`` (n,); no more of them are held."""
    found, start = [], 0
    for x, _ in batches:
        here = pick[(pick >= start) & (pick < start + len(x))]
        found.append(x[here - start])
        start += len(x)
    return torch.cat(found)


def walk(net: nn.Module, ends: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """What ``net`` makes of the points (1 - t) x + t x' between images ``ends`` (b, 2, ...).

    Returns (3, len(t), b): whether it says the first of the classes ``y`` (b, 2), whether the
    second, and the probability of the first. Raises ArithmeticError if a logit is not finite.
    """
    x, other = ends.unbind(1)
    logits = torch.stack([net(x.lerp(other, share)).double().cpu() for share in t.tolist()])
    if not logits.isfinite().all():
        raise ArithmeticError("logits between test images are not finite")
    guess = logits.argmax(2)  # t b
    says = [(guess == label).double() for label in y.unbind(1)]
    return torch.stack([*says, logits.softmax(2)[:, torch.arange(len(y)), y[:, 0]]])
