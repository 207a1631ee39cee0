"""A method's loss on a network of torch, and what a test compares it with: a formula in numpy."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pkgutil import resolve_name
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from helpers import comparing
from papers import network
from papers.network import MEAN, STD, STRIDES, Array, Network
from papers.tape import Tape
from papers.transformer import BLOCKS, HEADS, PATCH, Transformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.bench.nets.vit import staged
from mixbench.methods import Criterion, Method, Net, _saliency, bce_on_softmax
from mixbench.methods._adain import AdaIN

CRITERIA: dict[str, tuple[Criterion, Callable[[Array, Array], Array]]] = {
    "ce": (F.cross_entropy, network.cross_entropy),
    "bce": (bce_on_softmax, network.binary_cross_entropy),
}
"""Of both networks: torch's, and numpy's."""

CLASSES = 6
"""One more than TokenMix looks at."""

Module = TypeVar("Module", bound=nn.Module)

WIDTHS = {"stem": 4, "layer1": 4, "layer2": 5, "layer3": 5, "layer4": 6}

OUR_DRAWS = ("beta", "ratios", "partners", "dirichlet", "simplex", "chance", "choice")
TORCH_DRAWS = ("rand", "randn", "randint", "randperm", "multinomial", "bernoulli")
"""What is recorded of a step: what these functions return, if no other of them called."""

LAWS = {"beta", "ratios", "dirichlet", "chance", "choice"}
"""Draws whose arguments, the parameters of their laws, are recorded too."""

CERTAIN = {("chance", 0.0), ("chance", 1.0), ("choice", 1)}
"""Calls that are no draws."""

STEP = 3e-6
"""How far the formula is moved to either side for its slope."""


class Pixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Layer(nn.Module):
    def __init__(self, entering: int, leaving: int, stride: int, stem: bool) -> None:
        super().__init__()
        self.norm = nn.Identity() if stem else nn.BatchNorm2d(entering)
        self.act = nn.Identity() if stem else nn.Tanh()
        self.conv = nn.Conv2d(entering, leaving, 3, stride, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.conv(self.act(self.norm(z)))
        return out


def small_net() -> Net:
    """The network of ``papers.network``, with weights at random; maps of 8 x 8 images are 6 x 2 x 2."""
    widths = [3, *WIDTHS.values()]
    layers = {
        name: Layer(entering, leaving, STRIDES[name], stem=name == "stem")
        for name, entering, leaving in zip(WIDTHS, widths, widths[1:], strict=False)
    }
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return scattered(Net(pixels=Pixels(), **layers, pool=pool, head=nn.Linear(widths[-1], CLASSES)))


def small_vit() -> Net:
    """The network of ``papers.transformer``, with weights at random, for images of 8 x 8."""
    model = VisionTransformer(
        img_size=8,
        patch_size=PATCH,
        num_classes=CLASSES,
        embed_dim=8,
        depth=len(BLOCKS),
        num_heads=HEADS,
        mlp_ratio=2,
    )
    return scattered(staged(model, MEAN, STD))


def small_adain(*_: str) -> AdaIN:
    """Style transfer between maps that are half as large as the images."""
    encoder = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, padding=1))
    return scattered(AdaIN(encoder, decoder))


def scattered(net: Module) -> Module:
    for weights in net.parameters():
        nn.init.normal_(weights, std=0.5)
    return net


def small_home(method: Method) -> Net:
    """A small network that the method can be applied to."""
    try:
        method.check(net := small_net())
    except ValueError:
        method.check(net := small_vit())
    return net


def taught(teacher: Net, x: Tensor) -> Net:
    """The teacher, after it has learnt to see another class in each of the images."""
    with torch.no_grad():
        z = teacher.eval().split("pool")[0](x)
        head = torch.linalg.lstsq(z, 4 * torch.eye(len(x), CLASSES)).solution.T
        teacher.head.get_parameter("weight").copy_(head)
        teacher.head.get_parameter("bias").zero_()
    return teacher


def batch(b: int, size: tuple[int, int], soft: bool) -> tuple[Tensor, Tensor]:
    """Random images, of which gradients can be asked, and targets: one-hot, or distributions."""
    x, labels = torch.rand(b, 3, *size, requires_grad=True), torch.randint(CLASSES, (b,))
    return x, torch.randn(b, CLASSES).softmax(1) if soft else torch.eye(CLASSES)[labels]


def weights_of(net: nn.Module) -> dict[str, Array]:
    return {name: part.detach().numpy().copy() for name, part in net.named_parameters()}


@contextmanager
def recorded(more: Sequence[str] = ()) -> Iterator[list[tuple[str, tuple[Any, ...], Any]]]:
    """The draws of a step, in order, as (name, arguments, number or array).

    more: functions that draw for one method alone, by their whole paths.
    """
    draws: list[tuple[str, tuple[Any, ...], Any]] = []
    within = []

    def recording(name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(draw)
        def drawn(*args: Any, **named: Any) -> Any:
            within.append(name)
            try:
                value = draw(*args, **named)
            finally:
                within.pop()
            if not within and (name, *args) not in CERTAIN:
                law = args if name in LAWS else ()
                draws.append(
                    (name, law, value.numpy().copy() if isinstance(value, Tensor) else value)
                )
            return value

        return drawn

    with ExitStack() as patches:
        for name in TORCH_DRAWS:
            patches.enter_context(patch.object(torch, name, recording(name, getattr(torch, name))))
        for module in [m for key, m in sys.modules.items() if key.startswith("mixbench.methods")]:
            for name in OUR_DRAWS:
                if callable(draw := vars(module).get(name)):
                    patches.enter_context(patch.object(module, name, recording(name, draw)))
        for path in more:
            name = path.rpartition(".")[2]
            patches.enter_context(patch(path, recording(name, resolve_name(path))))
        yield draws


class Step:
    """What a method's loss is on a batch, and what it came from: draws, logits and targets, slopes.

    objective: of the method, on a network of torch's, in double precision.
    more: what is recorded besides, as for ``recorded``.
    """

    def __init__(
        self,
        objective: Callable[[Tensor, Tensor], Tensor],
        net: Net,
        x: Tensor,
        y: Tensor,
        more: Sequence[str] = (),
    ):
        inputs = {"images": x, **dict(net.named_parameters())}
        self.inputs = {name: part.detach().numpy().copy() for name, part in inputs.items()}
        self.targets = y.numpy().copy()
        bce = net.criterion is bce_on_softmax
        with recorded(more) as draws, comparing(net) as compared:
            known = net.criterion if bce else bce_on_softmax
            with patch.object(_saliency, "bce_on_softmax", known):  # which it tells by identity
                loss = objective(x, y)
        slopes = torch.autograd.grad(
            loss, [*inputs.values()], allow_unused=True, materialize_grads=True
        )
        self.loss = loss.item()
        self.draws = draws
        self.compared = [tuple(part.detach().numpy() for part in pair) for pair in compared]
        self.gradients = {n: g.numpy() for n, g in zip(inputs, slopes, strict=True)}


Formula = Callable[[Mapping[str, Array], Tape], float]
"""The loss by inputs, images and weights, and a tape."""


def slope(formula: Formula, step: Step, tape: Tape, name: str, direction: Array) -> float:
    """The slope of a formula along a direction of one of the inputs, by central differences."""
    ends = []
    for sign in (1, -1):
        tape.rewind()
        moved = step.inputs[name] + sign * STEP * direction
        ends.append(formula({**step.inputs, name: moved}, tape))
    return float((ends[0] - ends[1]) / (2 * STEP))


def numpy_network(inputs: Mapping[str, Array], criterion: str, guide: Any = None) -> Network:
    kind = Transformer if "stem.cls_token" in inputs else Network
    return kind(inputs, CRITERIA[criterion][1], guide)


def directions(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)
