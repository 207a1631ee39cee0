"""A small network in numpy: convolutions behind batch norm and tanh, a mean, a linear head."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STAGES = ("pixels", "stem", "layer1", "layer2", "layer3", "layer4", "pool", "head")
STRIDES = {"stem": 1, "layer1": 1, "layer2": 2, "layer3": 1, "layer4": 2}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Network:
    """The network with these weights, by name; each batch that passes is normalised by itself.

    compared: the logits and targets of every call of ``losses``.
    guide: the network, or whatever it is, that a guided method asks.
    """

    def __init__(
        self,
        weights: Mapping[str, Array],
        criterion: Callable[[Array, Array], Array],
        guide: Any = None,
    ) -> None:
        self.weights, self.criterion, self.guide = weights, criterion, guide
        self.compared: list[tuple[Array, Array]] = []

    def __call__(self, x: Array) -> Array:
        return self.above(None, x)

    def below(self, stage: str, x: Array) -> Array:
        """What leaves a stage, of images (b, 3, h, w)."""
        for name in STAGES[: STAGES.index(stage) + 1]:
            x = self.pass_through(name, x)
        return x

    def above(self, stage: str | None, z: Array) -> Array:
        """The logits of what leaves a stage; of images, if it is None."""
        for name in STAGES[STAGES.index(stage) + 1 if stage else 0 :]:
            z = self.pass_through(name, z)
        return z

    def losses(self, logits: Array, targets: Array) -> Array:
        """The loss of each example, (n,), of logits and targets (n, c)."""
        self.compared.append((logits, targets))
        return self.criterion(logits, targets)

    def pass_through(self, stage: str, z: Array) -> Array:
        if stage == "pixels":
            normal: Array = (z - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
            return normal
        if stage == "pool":
            pooled: Array = z.mean((2, 3))
            return pooled
        if stage == "head":
            logits: Array = z @ self.weights["head.weight"].T + self.weights["head.bias"]
            return logits
        if stage != "stem":
            z = np.tanh(self.normalised(stage, z))
        return convolved(
            z,
            self.weights[f"{stage}.conv.weight"],
            self.weights[f"{stage}.conv.bias"],
            STRIDES[stage],
        )

    def normalised(self, stage: str, z: Array) -> Array:
        """Batch norm, by the mean and the variance of all positions of all examples."""
        centred = z - z.mean((0, 2, 3), keepdims=True)
        variance = (centred**2).mean((0, 2, 3), keepdims=True)
        return self.scaled(stage, centred / np.sqrt(variance + 1e-5))

    def scaled(self, stage: str, z: Array) -> Array:
        """What is normalised, by the learnt scale and shift of each channel."""
        scale, shift = self.weights[f"{stage}.norm.weight"], self.weights[f"{stage}.norm.bias"]
        out: Array = z * scale[:, None, None] + shift[:, None, None]
        return out


class Evaluated(Network):
    """The network in eval mode, before any step: batch norm has seen a mean of 0, a variance of 1."""

    def normalised(self, stage: str, z: Array) -> Array:
        return self.scaled(stage, z / np.sqrt(1 + 1e-5))


def convolved(z: Array, kernel: Array, bias: Array, stride: int = 1) -> Array:
    """Maps (b, d, h, w) under a kernel (e, d, 3, 3), zeros around them, at each ``stride``-th pixel."""
    padded = np.pad(z, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = z.shape[2:]
    out = np.zeros((len(z), len(kernel), h, w))
    for i in range(3):
        for j in range(3):
            out += np.einsum(
                "ed,bdhw->behw", kernel[:, :, i, j], padded[:, :, i : i + h, j : j + w]
            )
    return (out + bias[:, None, None])[:, :, ::stride, ::stride]


def log_softmax(logits: Array) -> Array:
    """The logarithm of softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def softmax(logits: Array) -> Array:
    p: Array = np.exp(log_softmax(logits))
    return p


def cross_entropy(logits: Array, targets: Array) -> Array:
    """-sum_c y_c log p_c of each example, (n,)."""
    losses: Array = -(targets * log_softmax(logits)).sum(-1)
    return losses


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
    """-1/c sum_c [y_c log p_c + (1 - y_c) log(1 - p_c)] of each example, (n,), p by softmax."""
    p = softmax(logits)
    losses: Array = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(-1)
    return losses
