"""How embeddings of test images lie: within a class, between classes, next to training images."""

import math
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from mixbench.tasks import Answer, Metric, Task, Trained

ROWS = 500  # of a matrix of distances, held at once
SEED = 0  # of draws from the test set, which must be the same in all runs that are compared


def alignment(z: Tensor, y: Tensor, alpha: float) -> float:
    """The mean of ‖a − b‖^alpha over the pairs of a class, of embeddings (n, d), labels (n,).

    Wang and Isola, ICML 2020, arXiv 2005.10242, section 4.1; there embeddings have length 1.
    """
    powers = [F.pdist(of_class).pow(alpha) for of_class in _by_class(z.double(), y)]
    return torch.cat(powers).mean().item()


def uniformity(z: Tensor, t: float) -> float:
    """The log of the mean of exp(−t ‖a − b‖²) over all pairs of embeddings (n, d); ibid."""
    z = _centred(z)
    parts = [_log_kernels(z[i : i + ROWS], z[i:], t) for i in range(0, len(z), ROWS)]
    return torch.stack(parts).logsumexp(0).item() - math.log(math.comb(len(z), 2))


def _log_kernels(rows: Tensor, rest: Tensor, t: float) -> Tensor:
    """The log of the sum over pairs of a row and one after it in ``rest``, which begins with them."""
    exponents = -t * torch.cdist(rows, rest).square()
    counted = torch.ones_like(exponents, dtype=torch.bool).triu(1)
    return exponents.where(counted, -torch.inf).logsumexp((0, 1))


def within_between(z: Tensor, y: Tensor) -> float:
    """The mean ‖a − b‖² over pairs of a class, over that of pairs of two: embeddings (n, d)."""
    classes = _by_class(z, y)
    within = sum(_squares(of_class) for of_class in classes)
    pairs = sum(math.comb(len(of_class), 2) for of_class in classes)
    return within / pairs / ((_squares(z) - within) / (math.comb(len(z), 2) - pairs))


def _squares(z: Tensor) -> float:
    """The sum of ‖a − b‖² over all pairs of (n, d), which is n times that to their mean."""
    return len(z) * _centred(z).square().sum().item()


def silhouette(z: Tensor, y: Tensor) -> float:
    """The mean silhouette, in [-1, 1], of embeddings (n, d) by Euclidean distance.

    Rousseeuw, J. Comput. Appl. Math. 20 (1987), with classes (n,) for clusters.
    """
    import sklearn
    from sklearn.metrics import silhouette_score

    with sklearn.config_context(working_memory=64):  # MiB
        return float(silhouette_score(_centred(z).cpu().numpy(), y.cpu().numpy()))


def knn_error(
    bank: Tensor, labels: Tensor, z: Tensor, y: Tensor, k: int, temperature: float
) -> float:
    """How often, in [0, 1], the ``k`` in the bank that are nearest to an embedding tell its class.

    Each votes for its label with exp(cosine / temperature); a tie goes to the nearest. Wu et al.,
    CVPR 2018, arXiv 1805.01978, section 3.4.
    """
    bank = F.normalize(bank)
    wrong = 0
    for queries, true in zip(F.normalize(z).split(ROWS), y.split(ROWS), strict=True):
        cosines, nearest = (queries @ bank.T).topk(k)
        guess = _elected(labels[nearest], (cosines.double() / temperature).softmax(1))
        wrong += int((guess != true).sum())
    return wrong / len(z)


def _elected(labels: Tensor, weights: Tensor) -> Tensor:
    """The label (b,) among (b, k) with the largest sum of weights (b, k), of equals the first."""
    same = labels[:, :, None] == labels[:, None, :]
    votes = (same * weights[:, None, :]).sum(2)  # b k: for the label of each
    return labels.gather(1, votes.argmax(1, keepdim=True)).squeeze(1)


def _centred(z: Tensor) -> Tensor:
    """In double precision and about the mean: distances lose no digits to a common offset."""
    return z.double() - z.double().mean(0)


def _by_class(z: Tensor, y: Tensor) -> list[Tensor]:
    """The rows of each class that there is, in the order of the classes."""
    return [z[y == c] for c in y.unique()]


def _drawn(n: int, most: int) -> Tensor:
    """At most so many of n indices, in order, by a draw in which no run's seed has a part."""
    draw = torch.Generator("cpu").manual_seed(SEED)
    return torch.randperm(n, generator=draw, device="cpu")[:most].sort().values


@dataclass(frozen=True)
class Embedding(Task):
    """Distances between embeddings of test images, and the error of their nearest neighbours.

    alpha, t: of alignment and uniformity, which are told of embeddings of length 1 (one that is
        zero stays zero) and of raw ones; the latter depend on the scale of the network.
    k, temperature: of the neighbours, which are training images, by cosine; their defaults are
        those of Caron et al., ICCV 2021, arXiv 2104.14294, and Wu et al.
    sample: the most test images whose pairs are looked at, the same for all runs.
    classes, per_class: of the figure, the same for all runs; fewer if there are fewer.

    The ratio and the silhouette are of raw embeddings; no scale changes them. A class may have no
    test image. Raises ValueError if a metric has no pair or too few neighbours to look at,
    ArithmeticError if all embeddings are equal.
    """

    alpha: PositiveFloat = 2.0
    t: PositiveFloat = 2.0
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    sample: PositiveInt = 10_000
    classes: PositiveInt = 10
    per_class: PositiveInt = 100

    metrics: ClassVar = {
        "alignment": Metric("alignment", "lower", ".3f"),
        "uniformity": Metric("uniformity", "lower", ".3f"),
        "knn": Metric("kNN error, %", "lower"),
        "alignment_raw": Metric("alignment, raw", "lower", ".3f", main=False),
        "uniformity_raw": Metric("uniformity, raw", "lower", ".3f", main=False),
        "ratio": Metric("within/between", "lower", ".3f", main=False),
        "silhouette": Metric("silhouette", "higher", ".3f", main=False),
    }

    @torch.no_grad()
    def evaluate(self, trained: Trained) -> Answer:
        test = trained.outputs("test")
        seen = _drawn(len(test), self.sample).to(test.labels.device)
        z, y = test.embeddings[seen], test.labels[seen]
        _refuse(z, y)
        return self._distances(z, y) | {"knn": self._knn(trained)} | self._figure(trained)

    def _distances(self, z: Tensor, y: Tensor) -> dict[str, float | list[float] | Tensor]:
        unit = F.normalize(z.double())
        return {
            "alignment": alignment(unit, y, self.alpha),
            "uniformity": uniformity(unit, self.t),
            "alignment_raw": alignment(z, y, self.alpha),
            "uniformity_raw": uniformity(z, self.t),
            "ratio": within_between(z, y),
            "silhouette": silhouette(z, y),
        }

    def _knn(self, trained: Trained) -> float:
        train, test = trained.outputs("train"), trained.outputs("test")
        if self.k > len(train):
            raise ValueError(f"k={self.k}, but there are {len(train)} training images to be near")
        z, y = test.embeddings, test.labels
        bank = train.embeddings, train.labels
        return 100 * knn_error(*bank, z, y, self.k, self.temperature)

    def _figure(self, trained: Trained) -> dict[str, Tensor]:
        """The first test images of a few classes: embeddings (n, d) and classes (n,), sorted."""
        test = trained.outputs("test")
        there = test.labels.unique()
        drawn = there[_drawn(len(there), self.classes).to(there.device)]
        of_class = [(test.labels == c).nonzero().squeeze(1)[: self.per_class] for c in drawn]
        shown = torch.cat(of_class)
        return {
            "figure_embeddings": test.embeddings[shown],
            "figure_classes": test.labels[shown],
        }


def _refuse(z: Tensor, y: Tensor) -> None:
    """What leaves a metric without a pair, or ratios of distances without a meaning."""
    of_class = y.unique(return_counts=True)[1]
    if len(of_class) == 1:
        raise ValueError(f"the {len(y)} test images looked at are of one class; two are needed")
    if len(of_class) == len(y):
        raise ValueError(f"of the {len(y)} test images looked at, no two are of one class")
    if z.eq(z[0]).all():
        raise ArithmeticError(f"the embeddings of {len(y)} test images are all equal")
