"""How well images of no class that was trained on are told from test images, by a score."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.tasks import Data, Inapplicable, Metric, NoImages, Task, Trained, distinct, located

CHUNK = 500  # of embeddings, whose distances to all others are held at once


def told_apart(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """How well higher scores tell images of known classes, (n,), from others, (m,), in percent.

    What scores the same is told apart by no threshold, which may be any score, or above all.

    auroc: area under the ROC curve: how often a known image scores higher; a tie counts half.
    aupr_in, aupr_out: average precision, of finding those of known classes, and the others.
    accuracy: the best of any threshold, were both equally many (ODIN, 1706.02690).
    fpr95: the share of others at or above the highest threshold that keeps 95 % of the known.
    """
    from sklearn.metrics import auc, average_precision_score, roc_curve

    scores = torch.cat([inside, outside]).double().cpu().numpy()
    known = np.repeat([1, 0], [len(inside), len(outside)])
    fpr, tpr, _ = roc_curve(known, scores, drop_intermediate=False)
    shares = {
        "auroc": auc(fpr, tpr),
        "aupr_in": average_precision_score(known, scores),
        "aupr_out": average_precision_score(1 - known, -scores),
        "accuracy": (tpr + 1 - fpr).max() / 2,
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
    }
    return {name: 100 * float(share) for name, share in shares.items()}


def msp(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The largest softmax probability p (1610.02136) of logits (b, c), as log p / (1 - p), (b,).

    The order is that of p, which rounds to 1 where this still grows. Logits are sorted, as in
    another order a sum may round otherwise, and break a tie.
    """
    if logits.shape[1] < 2:
        raise Inapplicable("the probability of a single class is always 1")
    logits = logits.double().sort(1, descending=True).values
    return -((logits[:, 1:] - logits[:, :1]) / temperature).logsumexp(1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The negative energy of logits (b, c) (Liu et al., 2010.03759), (b,)."""
    return temperature * (logits.double() / temperature).logsumexp(1)


def max_logit(logits: Tensor) -> Tensor:
    """The largest of logits (b, c) (Hendrycks et al., 1911.11132), (b,)."""
    return logits.double().amax(1)


@torch.enable_grad()
def odin(net: nn.Module, x: Tensor, temperature: float, eps: float) -> Tensor:
    """``msp`` of images (b, 3, h, w), each pixel moved by ``eps`` to where it is higher, (b,).

    As in the authors' code (Liang et al., 1706.02690), pixels may leave [0, 1].
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(msp(net(x), temperature).sum(), x)
    with torch.no_grad():
        return msp(net(x + eps * gradient.sign()), temperature)


def knn(z: Tensor, train: Tensor, k: int) -> Tensor:
    """How near, negative, embeddings (n, d) are to the k-th nearest of (m, d), (n,).

    All are normalised (Sun et al., 2204.06507). Neighbours are found in float32, a part at a time,
    and their distance is computed again in float64. Raises ValueError if there are too few.
    """
    if k > len(train):
        raise ValueError(f"k={k} neighbours are more than the {len(train)} training embeddings")
    z, train = F.normalize(z.float()), F.normalize(train.float())
    kth = [
        torch.cdist(part, train).topk(k, largest=False).indices[:, -1] for part in z.split(CHUNK)
    ]
    return -F.pairwise_distance(z.double(), train[torch.cat(kth)].double(), eps=0)


def _named(name: str) -> str:
    return located(name, "a set of images of other classes, or folder:PATH")


@dataclass(frozen=True)
class OOD(Task):
    """Detection of images of ``sets`` among test images, and the mean over the sets.

    score: the papers' is "msp", the largest probability.
    equal: of test images and of each set, as many are compared as the smaller has, chosen by the
        run's seed; average precision depends on the ratio. Otherwise all are.
    temperature: of the energy. odin_temperature, odin_eps: of ODIN; pixels are in [0, 1].
    k: of the nearest neighbours among training images; Sun et al. take 50 for CIFAR-10, 200 for
        CIFAR-100.
    """

    sets: Annotated[
        tuple[Annotated[str, AfterValidator(_named)], ...], AfterValidator(distinct)
    ] = (
        "lsun-crop",
        "lsun-resize",
        "isun",
        "tinyimagenet-crop",
        "tinyimagenet-resize",
        "uniform",
        "gaussian",
    )
    score: Literal["msp", "energy", "maxlogit", "odin", "knn"] = "msp"
    equal: bool = True
    temperature: PositiveFloat = 1.0
    odin_temperature: PositiveFloat = 1000.0
    odin_eps: NonNegativeFloat = 0.0014
    k: PositiveInt = 50

    @property
    def metrics(self) -> Mapping[str, Metric]:
        of, sizes = self.score, "equal sizes" if self.equal else "all images"
        means = {
            "auroc": Metric(f"OOD AUROC, %, {of}", "higher"),
            "aupr_in": Metric(f"AUPR-ID, %, {of}, {sizes}", "higher"),
            "aupr_out": Metric(f"AUPR-OOD, %, {of}, {sizes}", "higher"),
            "accuracy": Metric(f"OOD detection accuracy, %, {of}", "higher", main=False),
            "fpr95": Metric(f"OOD FPR at 95 % TPR, %, {of}", "lower", main=False),
        }
        return means | {
            f"{metric}_{name}": replace(rule, title=f"{rule.title}, {name}", main=False)
            for name in self.sets
            for metric, rule in means.items()
        }

    def check(self, data: Data) -> None:
        for name in self.sets:
            data.require(name)

    def evaluate(self, trained: Trained) -> dict[str, float]:
        inside = self._scores(trained, "test")
        each = {
            name: told_apart(*self._compared(inside, self._scores(trained, name)))
            for name in self.sets
        }
        means = {
            metric: fmean(shares[metric] for shares in each.values())
            for metric in each[self.sets[0]]
        }
        return means | {
            f"{metric}_{name}": share
            for name, shares in each.items()
            for metric, share in shares.items()
        }

    def _scores(self, trained: Trained, name: str) -> Tensor:
        """Of a set (n,), float64: the higher, the more its images seem to be of known classes."""
        scores = self._odin(trained, name) if self.score == "odin" else self._read(trained, name)
        if lost := int((~scores.isfinite()).sum()):
            raise ArithmeticError(
                f"{lost:,} of the {len(scores):,} {self.score} scores of {name} are not finite"
            )
        return scores

    def _read(self, trained: Trained, name: str) -> Tensor:
        of = trained.outputs(name)
        if self.score == "energy":
            return energy(of.logits, self.temperature)
        if self.score == "knn":
            return knn(of.embeddings, trained.outputs("train").embeddings, self.k)
        return max_logit(of.logits) if self.score == "maxlogit" else msp(of.logits)

    def _odin(self, trained: Trained, name: str) -> Tensor:
        net = trained.net.requires_grad_(False)  # their gradients would take memory
        scores = [
            odin(net, x, self.odin_temperature, self.odin_eps)
            for x, _ in trained.data.batches(name)
        ]
        if not scores:
            raise NoImages(f"{name} has no images")
        return torch.cat(scores)

    def _compared(self, inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
        if not self.equal:
            return inside, outside
        n = min(len(inside), len(outside))
        return _drawn(inside, n), _drawn(outside, n)


def _drawn(scores: Tensor, n: int) -> Tensor:
    """``n`` of the scores, which the run's seed alone decides, whatever else was drawn."""
    draw = torch.Generator().manual_seed(torch.initial_seed())
    return scores[torch.randperm(len(scores), generator=draw)[:n].to(scores.device)]
