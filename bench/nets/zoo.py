"""Image classifiers of timm, by their names there, as stages."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from mixbench.bench.nets.preactresnet import Pixels
from mixbench.bench.nets.vit import staged as staged_vit
from mixbench.bench.spec import BadInput, one_line
from mixbench.methods import Net

STRIDES = (4, 8, 16, 32)
"""Pixels from one position to the next of what leaves layer1, layer2, layer3 and layer4."""
Part = tuple[str, nn.Module]


class Permute(nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


def known(name: str) -> str:
    """``name`` itself. Raises BadInput, with the nearest names, if timm has no such model."""
    from timm import list_models  # takes seconds

    if name in (models := list_models()):
        return name
    near = [f"timm/{model}" for model in get_close_matches(name, models, cutoff=0)]
    raise BadInput(f"timm has no model {name!r}; did you mean {' or '.join(near)}?")


def timm_net(
    name: str,
    classes: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    **settings: Any,
) -> Net:
    """A new model of timm for images of side ``size``, as stages that share its modules.

    Raises BadInput if timm has no such model, or if it has no stages that in a row compute what it
    does; on the meta device, where nothing is computed, the latter is not known.
    """
    model = create(known(name), classes, size, **settings)
    try:
        net = staged(model, mean, std)
        if not next(model.parameters()).is_meta:
            verify(net, model, size)
    except ValueError as error:
        raise BadInput(f"timm/{name} can't be had as stages: {error}") from None
    return net


def vit_small(classes: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Net:
    """DeiT-S (arXiv 2012.12877): ViT-S/16 with stochastic depth 0.1."""
    return timm_net("vit_small_patch16_224", classes, size, mean, std, drop_path_rate=0.1)


def create(name: str, classes: int, size: int, **settings: Any) -> Any:
    """A new model of timm. Raises BadInput if there is none for images of side ``size``."""
    from timm import create_model
    from timm.models import get_pretrained_cfg

    config: Any = get_pretrained_cfg(name)
    if config.fixed_input_size:
        settings["img_size"] = size
    try:
        return create_model(name, num_classes=classes, **settings)
    except Exception as error:  # each model has its own way to refuse
        reason = one_line(error)
        raise BadInput(f"timm/{name} can't be made for {size} x {size} pixels: {reason}") from error


def staged(model: Any, mean: Sequence[float], std: Sequence[float]) -> Net:
    """The stages of a model of timm: pixels, stem, layer1 to layer4, pool, head.

    What leaves a layer are maps (b, d, h, w); those that leave layer4 are what the pool sees, so
    that it also holds a last norm or 1 x 1 convolution. A vision transformer has blocks instead.
    Raises ValueError, which says why, if the model is not of that kind.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not hasattr(model, "get_classifier"):
        raise ValueError("it should be a classifier")
    head = linear(model.get_classifier())
    if isinstance(model, VisionTransformer):
        return staged_vit(model, mean, std)
    stages = {name: row(parts) for name, parts in sections(model).items()}
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        stages = {name: channels_first(name, stage) for name, stage in stages.items()}
    return Net(pixels=Pixels(mean, std), **stages, head=head)


def linear(head: Any) -> nn.Linear:
    """A plain linear layer with the parameters of ``head``."""
    if isinstance(head, nn.Linear):
        plain = nn.Linear(head.in_features, head.out_features, device="meta")
        plain.weight, plain.bias = head.weight, head.bias
        return plain
    raise ValueError(f"its head should be one nn.Linear, not {type(head).__name__}")


def sections(model: Any) -> dict[str, list[Part]]:
    """The parts of each stage from the stem to the pool, if they run in the order of their names.

    Layers end where timm takes features from.
    """
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    features = getattr(model, "feature_info", [])[-4:]
    if tuple(feature["reduction"] for feature in features) != STRIDES:
        raise ValueError(f"it should have features at strides of {STRIDES} pixels")
    paths = {module: path for path, module in model.named_modules()}
    pools = [path for module, path in paths.items() if isinstance(module, SelectAdaptivePool2d)]
    marks = [*(feature["module"] for feature in features), *pools, paths[model.get_classifier()]]
    parts = list(opened(model, marks))
    at = [i for i, (path, _) in enumerate(parts) if path in marks]
    if [parts[i][0] for i in at] != marks or len(marks) != 6:
        raise ValueError("it should be four layers, a pool and a head in a row")
    first, second, third, _, pool, head = at
    return {
        "stem": parts[:first],
        "layer1": parts[first : first + 1],
        "layer2": parts[first + 1 : second + 1],
        "layer3": parts[second + 1 : third + 1],
        "layer4": parts[third + 1 : pool],
        "pool": parts[pool:head],
    }


def opened(module: nn.Module, wanted: Sequence[str], path: str = "") -> Iterator[Part]:
    """The children of a module; in place of one that holds a ``wanted`` path, its own children."""
    for name, child in module.named_children():
        here = path + name
        if any(want.startswith(f"{here}.") for want in wanted):
            yield from opened(child, wanted, f"{here}.")
        else:
            yield here, child


def row(parts: Sequence[Part]) -> nn.Module:
    """Parts as one module."""
    if len(parts) == 1:
        return parts[0][1]
    return nn.Sequential(OrderedDict((path.replace(".", "_"), part) for path, part in parts))


def channels_first(name: str, stage: nn.Module) -> nn.Module:
    """A stage that passes (b, d, h, w) on, from one between whose parts (b, h, w, d) pass."""
    before = [] if name == "stem" else [Permute(0, 2, 3, 1)]
    after = [] if name == "pool" else [Permute(0, 3, 1, 2)]
    return nn.Sequential(*before, stage, *after)


def verify(net: Net, model: nn.Module, size: int) -> None:
    """Raises ValueError if stages compute other logits than their model, or lack parameters.

    Copies are compared whose parameters are not zero, nor small: at the start, many are.
    """
    if {id(p) for p in net.parameters()} != {id(p) for p in model.parameters()}:
        raise ValueError("they would lack some of its parameters")
    (_, stages), model = deepcopy((net.split("pixels"), model))
    with torch.random.fork_rng([]), torch.no_grad():
        torch.default_generator.manual_seed(0)  # and not those of GPUs
        x = torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for mode in (True, False):
            expected = outcome("it fails", model.train(mode), x)
            actual = outcome("in a row they fail", stages.train(mode), x)
            if not torch.allclose(actual, expected, rtol=1e-5, atol=1e-5):
                raise ValueError("in a row they would compute something else")


def outcome(failure: str, part: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of ``x``, with one seed for its draws. Raises ValueError if it can't."""
    torch.default_generator.manual_seed(1)
    try:
        out: Tensor = part(x)
    except Exception as error:  # maps too small for a convolution, for example
        size = f"{x.shape[2]} x {x.shape[3]}"
        raise ValueError(f"{failure} on {size} pixels: {one_line(error)}") from error
    return out
