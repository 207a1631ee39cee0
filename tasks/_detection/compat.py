"""What mmdetection 3.3.0, which is no longer kept, needs to work beside today's torch."""

import logging
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

INSTALL = "pip install 'mixbench[detection]'"


def operators() -> None:
    """Raises ValueError, which says what to install, if torchvision's operators don't load.

    They don't if it was built for another release of torch.
    """
    try:
        import_module("torchvision")
        for name in ("nms", "roi_align", "_roi_align_backward"):
            getattr(torch.ops.torchvision, name)
    except (AttributeError, ImportError, RuntimeError) as error:
        raise ValueError(
            f"torchvision {version('torchvision')} has no operators that torch {version('torch')} "
            "can load; they should be of one release: "
            "pip install --force-reinstall torch torchvision"
        ) from error


def prepare() -> None:
    """Make mmdet's models work; to be called before anything of mmdet is imported.

    Raises ValueError, one line that says what to install, if they can't.
    """
    operators()
    try:
        _import_models()
    except Exception as error:  # each of them has its own way to refuse the others
        raise ValueError(_remedy(error)) from error
    _give_ssd_a_loss()
    _silence()


def _import_models() -> None:
    if find_spec("mmcv._ext") is None:
        sys.modules["mmcv._ext"] = Operators()
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # invalid escapes
        import_module("mmdet.models")


def _remedy(error: Exception) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"mmdetection needs the package {error.name}: {INSTALL}"
    if isinstance(error, ImportError) and error.name == "cv2":
        return (
            f"OpenCV doesn't load ({reason}): apt install libgl1 libglib2.0-0, or put "
            "opencv-python-headless in the place of opencv-python"
        )
    return (
        f"{_installed()} don't work together ({reason}): "
        f"pip uninstall mmcv mmcv-lite, then {INSTALL}"
    )


def _installed() -> str:
    names = ("mmdet", "mmengine", "mmcv", "mmcv-lite")
    return ", ".join(
        f"{each.name} {each.version}" for each in distributions() if each.name in names
    )


def _give_ssd_a_loss() -> None:
    """Its head asks for one to predict, and has none (mmdetection's issue 11063)."""
    import_module("mmdet.models").SSDHead.loss_cls = None


def _silence() -> None:
    """mmengine prints how each parameter was initialised."""
    logger = import_module("mmengine.logging").MMLogger
    logger.get_current_instance().setLevel(logging.ERROR)


class Operators(ModuleType):
    """Stands in for ``mmcv._ext``, which mmcv-lite does not have, with torchvision's operators.

    Arguments are those of mmcv 2.1.0. Operators that torchvision does not have raise when called.
    """

    def __init__(self) -> None:
        super().__init__("mmcv._ext")
        self.__spec__ = ModuleSpec("mmcv._ext", None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **settings: Any) -> Any:
            raise NotImplementedError(f"the operator {name} is only in an mmcv that is compiled")

        return missing

    @staticmethod
    def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        """The boxes (n, 4) that are kept, by falling score."""
        if offset:
            raise NotImplementedError("nms with an offset is only in an mmcv that is compiled")
        kept: Tensor = torch.ops.torchvision.nms(bboxes, scores, iou_threshold)
        return kept

    @staticmethod
    def roi_align_forward(
        input: Tensor,
        rois: Tensor,
        output: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        """Writes regions (r, 5) of features (b, c, h, w) to output (r, c, height, width)."""
        _averages(pool_mode)
        size = (aligned_height, aligned_width)
        output.copy_(
            torch.ops.torchvision.roi_align(
                input, rois, spatial_scale, *size, sampling_ratio, aligned
            )
        )

    @staticmethod
    def roi_align_backward(
        grad_output: Tensor,
        rois: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        grad_input: Tensor,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        """Writes the gradient to that of the features."""
        _averages(pool_mode)
        size = (aligned_height, aligned_width, *grad_input.shape)
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                grad_output, rois, spatial_scale, *size, sampling_ratio, aligned
            )
        )


def _averages(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("roi_align by maxima is only in an mmcv that is compiled")
