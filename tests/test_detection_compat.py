"""What mmdetection needs is still needed, works, and says what to install where it can't."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mixbench.tasks._detection import compat, mmdetection
from mixbench.tasks._detection.backbone import ResNet

pytest.importorskip("mmengine")


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    mmdetection.check()


def small_resnet() -> ResNet:
    from torchvision.models import resnet18

    weights = {k: w for k, w in resnet18().state_dict().items() if not k.startswith("fc.")}
    return ResNet(18, weights, (0.5,) * 3, (0.5,) * 3)


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """What a new Python prints, to whose path some folders are put first."""
    before = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": before, "OMP_NUM_THREADS": "1"},
    )


def boxes(n: int) -> Tensor:
    corner = 20 * torch.rand(n, 2)
    return torch.cat([corner, corner + 1 + 10 * torch.rand(n, 2)], 1)


# What it works around.


def test_mmdet_still_asks_for_compiled_operators() -> None:
    assert "No module named 'mmcv._ext'" in run("import mmdet.models").stderr


def test_the_head_of_ssd_still_has_no_loss(monkeypatch: Any) -> None:
    detector = mmdetection.ssd300(small_resnet(), 3, range(30, 310, 40)).eval()
    monkeypatch.delattr(import_module("mmdet.models").SSDHead, "loss_cls")
    with pytest.raises(AttributeError, match="loss_cls"):
        detector.found([torch.rand(3, 300, 300)])


def test_mmengine_still_tells_how_parameters_begin(monkeypatch: Any) -> None:
    logger = import_module("mmengine.logging").MMLogger.get_current_instance()
    told: list[Any] = []
    monkeypatch.setattr(logger, "handle", told.append)
    mmdetection.ssd300(small_resnet(), 3, range(30, 310, 40))
    assert not told
    monkeypatch.setattr(compat, "_silence", lambda: logger.setLevel("INFO"))
    mmdetection.ssd300(small_resnet(), 3, range(30, 310, 40))
    monkeypatch.undo()
    compat.prepare()
    assert len(told) > 20


def test_a_file_of_mmdet_still_has_an_invalid_escape() -> None:
    source = files("mmdet").joinpath("models/backbones/trident_resnet.py").read_text()
    with pytest.warns((DeprecationWarning, SyntaxWarning), match="invalid escape"):
        compile(source, "trident_resnet.py", "exec")


# That it works.


def test_it_is_quiet_and_leaves_logging_and_threads_alone() -> None:
    """Also where pkgutil has no ``find_loader``, which Python 3.14 dropped and mmcv can call."""
    code = """
import logging, pkgutil
pkgutil.__dict__.pop("find_loader", None)
import torch
from test_detection_compat import small_resnet
torch.set_num_threads(1)
from mixbench.tasks._detection import mmdetection
from mixbench.tasks._detection.detector import Boxes
mmdetection.check()
resnet, truth = small_resnet(), Boxes(torch.tensor([[9.0, 9, 50, 50]]), torch.tensor([1]), None)
ssd, rcnn = mmdetection.ssd300(resnet, 3, range(30, 310, 40)), mmdetection.faster_rcnn(resnet, 3, 8)
for detector, side in (ssd, 300), (rcnn, 64):
    images = [torch.rand(3, side, side)]
    sum(detector.losses(images, [truth]).values()).backward()
    detector.eval().found(images)
assert torch.get_num_threads() == 1
assert not logging.root.handlers and logging.root.level == logging.WARNING
"""
    done = run(code, Path(__file__).parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_can_be_prepared_twice() -> None:
    stand_in = sys.modules["mmcv._ext"]
    compat.prepare()
    assert sys.modules["mmcv._ext"] is stand_in
    assert isinstance(stand_in, compat.Operators)


def test_it_steps_aside_for_compiled_operators(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "_ext.py").touch()
    monkeypatch.setattr(import_module("mmcv"), "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    compat.prepare()
    assert "mmcv._ext" not in sys.modules


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_suppression_is_that_of_torchvision(threshold: float) -> None:
    from mmcv.ops import nms
    from torchvision.ops import nms as expected

    torch.manual_seed(0)
    at, scores = boxes(60), torch.rand(60)
    found, kept = nms(at, scores, threshold)
    assert 1 < len(kept) < 60
    assert kept.equal(expected(at, scores, threshold))
    assert found.equal(torch.cat([at, scores[:, None]], 1)[kept])


def test_suppression_drops_what_overlaps_more_than_the_threshold() -> None:
    from mmcv.ops import nms

    at = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 2, 0.9]])  # overlaps: 0.5, 0.45, 0.9
    kept = nms(at, torch.tensor([0.3, 0.2, 0.1]), 0.5)[1]
    assert kept.tolist() == [0, 1]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_regions_are_those_of_torchvision(aligned: bool, sampling: int) -> None:
    from mmcv.ops import roi_align
    from torchvision.ops import roi_align as expected

    torch.manual_seed(0)
    x = torch.rand(2, 5, 12, 16, requires_grad=True)
    regions = torch.cat([torch.tensor([[0.0], [1], [1]]), boxes(3)], 1)
    settings = ((2, 3), 0.5, sampling)
    weight = torch.rand(3, 5, 2, 3)

    def answer(align: Callable[..., Tensor], *last: Any) -> list[Tensor]:
        out = align(x, regions, *settings, *last)
        return [out, *torch.autograd.grad((weight * out).sum(), x)]

    torch.testing.assert_close(answer(roi_align, "avg", aligned), answer(expected, aligned))


REFUSED: dict[str, Callable[[Any], Any]] = {
    "softnms": lambda ops: ops.soft_nms(boxes(3), torch.rand(3)),
    "offset": lambda ops: ops.nms(boxes(3), torch.rand(3), 0.5, offset=1),
    "maxima": lambda ops: ops.roi_align(torch.rand(1, 1, 4, 4), torch.rand(1, 5), 2, 1.0, 0, "max"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_operator_is_named_when_it_is_called(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name}.* only in an mmcv that is compiled"):
        REFUSED[name](import_module("mmcv.ops"))


def test_the_stand_in_is_a_module_like_others() -> None:
    assert find_spec("mmcv._ext") is not None
    assert not hasattr(sys.modules["mmcv._ext"], "__file__")


# What it says.


def without_operators(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace())


def without_torchvision(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    error = "RuntimeError('operator torchvision::nms does not exist')"
    (folder / "torchvision.py").write_text(f"raise {error}")
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("broken", [without_operators, without_torchvision])
@pytest.mark.parametrize("check", [compat.operators, mmdetection.check])
def test_operators_that_do_not_load_are_a_matter_of_releases(
    broken: Callable[..., None], check: Callable[[], None], monkeypatch: Any, tmp_path: Path
) -> None:
    broken(monkeypatch, tmp_path)
    with pytest.raises(ValueError) as caught:
        check()
    assert str(caught.value) == (
        f"torchvision {version('torchvision')} has no operators that torch {version('torch')} can "
        "load; they should be of one release: pip install --force-reinstall torch torchvision"
    )


@pytest.mark.parametrize("name", ["mmcv", "mmdet", "pycocotools"])
def test_a_missing_package_is_named(name: str, monkeypatch: Any) -> None:
    def missing(module: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(compat, "find_spec", missing)
    with pytest.raises(ValueError) as caught:
        mmdetection.check()
    assert str(caught.value) == (
        f"mmdetection needs the package {name}: pip install 'mixbench[detection]'"
    )


def test_an_opencv_that_does_not_load_says_what_it_lacks(tmp_path: Path) -> None:
    fault = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({fault!r}, name='cv2')")
    code = "from mixbench.tasks._detection.mmdetection import check; check()"
    assert run(code, tmp_path).stderr.splitlines()[-1] == (
        f"ValueError: OpenCV doesn't load ({fault}): apt install libgl1 libglib2.0-0, or put "
        "opencv-python-headless in the place of opencv-python"
    )


def test_versions_that_do_not_fit_are_named(monkeypatch: Any) -> None:
    for name in ("mmdet", "mmdet.models"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(import_module("mmcv"), "__version__", "2.2.0")
    with pytest.raises(ValueError) as caught:
        mmdetection.check()
    line = str(caught.value)
    assert f"mmdet {version('mmdet')}" in line and f"mmcv-lite {version('mmcv-lite')}" in line
    assert "MMCV==2.2.0 is used but incompatible" in line
    assert line.endswith("pip uninstall mmcv mmcv-lite, then pip install 'mixbench[detection]'")
    assert "\n" not in line
