"""Transfer to detection: what is asked, what is refused, and going on after a kill."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from pytest import approx
from questions import Memory, Sets, trained
from torch import Tensor, nn

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.data import detection
from mixbench.bench.lab import Lab
from mixbench.bench.runs import check, fill
from mixbench.bench.spec import BadInput, canonical, parse
from mixbench.tasks import Inapplicable, Scenes, Task, Trained
from mixbench.tasks._detection import views
from mixbench.tasks._detection.detector import Boxes, Detector
from mixbench.tasks.detection import Detection

BACKENDS = ["torchvision", *(["mmdet"] if find_spec("mmdet") else [])]
TINY = "detection,data=shapes-voc,detector=faster-rcnn,iterations=4,batch=2,lr=1e-4,size=48,rois=8"
VOC_SIDES, COCO_SIDES = (30, 60, 111, 162, 213, 264, 315), (21, 45, 99, 153, 207, 261, 315)
SETTING = "digits/resnet18,epochs=1"
COCO_NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "speed"]


class Drawn(Sets):
    """The drawn shapes, of which a few are tested on."""

    def __init__(self, root: Path, test: int) -> None:
        super().__init__({})
        self.root, self.test = root, test

    def scenes(self, name: str) -> Scenes:
        scenes = detection.scenes(name, self.root)
        return replace(scenes, test=scenes.test[: self.test])


def task(text: str) -> Detection:
    built: Detection = parse(text, "mixbench.tasks", Detection)
    return built


def subject(root: Path, test: int = 5) -> Trained:
    """An untrained ResNet-18."""
    whole = trained(steps=0, net="resnet18")
    return replace(whole, data=Drawn(root, test), workplace=Memory())


@pytest.mark.parametrize("data", ["voc0712", "shapes-voc", "voc:/some/where"])
def test_vocs_layout_has_vocs_metric(data: str) -> None:
    assert [*Detection(data=data).metrics] == ["map11", "map", "speed"]


@pytest.mark.parametrize("data", ["coco", "shapes-coco", "coco:/some/where"])
def test_cocos_layout_has_cocos_metric(data: str) -> None:
    assert [*Detection(data=data).metrics] == COCO_NAMES


def test_numbers_of_different_detectors_have_different_titles() -> None:
    kinds = [
        Detection(data="coco", detector=detector, backend=backend)
        for detector in ("ssd300", "faster-rcnn")
        for backend in ("mmdet", "torchvision")
    ]
    titles = {rule.title for kind in kinds for rule in kind.metrics.values()}
    assert len(titles) == 4 * len(COCO_NAMES)


def test_the_published_schedules_are_the_default() -> None:
    ssd, faster = Detection().schedule, Detection(detector="faster-rcnn").schedule
    assert (ssd.iterations, ssd.batch, ssd.lr, ssd.weight_decay) == (120_000, 32, 1e-3, 5e-4)
    assert [round(drop * ssd.iterations) for drop in ssd.drops] == [80_000, 100_000]
    assert (faster.iterations, faster.batch) == (90_000, 16)
    assert (faster.lr, faster.weight_decay) == (0.02, 1e-4)
    assert [round(drop * faster.iterations) for drop in faster.drops] == [60_000, 80_000]


def test_fields_change_the_schedule() -> None:
    schedule = task("detection,iterations=30,batch=4,lr=0.25").schedule
    assert (schedule.iterations, schedule.batch, schedule.lr) == (30, 4, 0.25)
    assert schedule.weight_decay == Detection().schedule.weight_decay


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("detector=faster-rcnn,data=coco", 2),
        ("detector=faster-rcnn,data=voc:/some/shapes", 2),
        ("detector=faster-rcnn,data=shapes-coco", 1),
        ("detector=ssd300,data=coco", 1),
    ],
)
def test_numbers_from_before_images_were_grouped_are_stale_where_it_matters(
    text: str, version: int
) -> None:
    assert task(f"detection,{text}").version == version


def test_all_drawn_scenes_are_of_one_shape(tmp_path: Path) -> None:
    scenes = detection.scenes("shapes-coco", tmp_path)
    assert all(views._wide(scenes.train))


def test_a_path_is_spelled_in_the_one_way_that_is_true_everywhere() -> None:
    assert task("detection,data=voc:photos").data == f"voc:{Path('photos').resolve()}"


@pytest.mark.parametrize("data", ["photos/mine", "voc:", "uniform", "folder:photos", "yolo:a"])
def test_a_path_alone_is_refused(data: str) -> None:
    with pytest.raises(BadInput, match=r"data: it should be voc0712, coco, .* or coco:PATH, not"):
        task(f"detection,data={data}")


@pytest.mark.parametrize("field", ["size=16", "size=99999", "lr=1e300", "lr=0", "batch=0"])
def test_a_field_has_bounds(field: str) -> None:
    with pytest.raises(BadInput, match="it should be"):
        task(f"detection,{field}")


@pytest.mark.parametrize("field", ["size=64", "rois=8"])
def test_what_is_faster_rcnns_is_refused_for_ssd(field: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size and rois are Faster R-CNN's: add detector=faster"):
        task(f"detection,{field}").check(Drawn(tmp_path, 1))


@pytest.mark.skipif("mmdet" in BACKENDS, reason="mmdetection is here")
def test_a_missing_mmdetection_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'mixbench\[detection\]'"):
        Detection().check(Drawn(tmp_path, 1))


def test_missing_data_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path / "results"), tmp_path / "data")
    with pytest.raises(BadInput, match=r"VOC2007.* is missing; get it with: mixbench data get voc"):
        check({SETTING: [TINY.replace("shapes-voc", "voc0712") + ",backend=torchvision"]}, lab)


def test_a_network_that_is_no_resnet_has_no_answer(tmp_path: Path) -> None:
    small = replace(trained(), data=Drawn(tmp_path, 1))
    with pytest.raises(Inapplicable, match="detection needs a ResNet of depth 18, 34, 50"):
        task(TINY).evaluate(small)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_has_numbers_a_curve_and_pictures(backend: str, tmp_path: Path) -> None:
    asked = subject(tmp_path)
    torch.manual_seed(0)
    answer: Any = task(f"{TINY},backend={backend}").evaluate(asked)
    assert 0 <= answer["map11"] <= 100 and 0 <= answer["map"] <= 100 and answer["speed"] > 0
    assert len(answer["loss"]) == 4
    assert len(answer["classes"]) == len(set(answer["classes"])) > 1
    assert answer["figure_images"].shape == (4, 3, 300, 300)
    assert answer["figure_sizes"].tolist() == [[128, 160]] * 4
    scenes = asked.data.scenes("shapes-voc").test[:4]
    truth = [
        [i, y, *box] for i, s in enumerate(scenes) for y, box in zip(s.labels, s.boxes, strict=True)
    ]
    torch.testing.assert_close(answer["figure_truth"], torch.tensor(truth))
    found = answer["figure_found"]
    assert found.shape[1] == 7 and set(found[:, 0].tolist()) <= {0, 1, 2, 3}
    doing = {doing for doing, _, _ in asked.workplace.told}  # type: ignore[attr-defined]
    assert doing == {"tuning a detector", "testing a detector"}


class Whole(Detector):
    """Finds one object of class 2, as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 1)

    @property
    def backbone(self) -> nn.Module:
        return self.body

    def losses(self, images: Sequence[Tensor], truths: Sequence[Boxes]) -> Mapping[str, Tensor]:
        return {"loss": self.body.bias.square().sum()}

    def found(self, images: Sequence[Tensor]) -> list[Boxes]:
        ends = [torch.tensor([[0, 0, *image.shape[:0:-1]]]).float() for image in images]
        return [Boxes(end, torch.tensor([2]), torch.tensor([0.9])) for end in ends]


def looked_at(asked: Detection, root: Path) -> tuple[Any, Mock, Mock]:
    """The answer of that detector, how it was made, and what ``to_tune`` was called with."""
    library, whole = Mock(), subject(root)
    library.ssd300.side_effect = library.faster_rcnn.side_effect = lambda *_: Whole()
    torch.manual_seed(3)
    with (
        patch.object(Detection, "_library", lambda _: library),
        patch.object(views, "to_tune", wraps=views.to_tune) as to_tune,
    ):
        return asked.evaluate(whole), library, to_tune


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_ssd_sees_squares_augmented_and_has_default_boxes_by_layout(
    kind: str, tmp_path: Path
) -> None:
    asked = task(f"detection,data=shapes-{kind},iterations=2,batch=3")
    answer, library, to_tune = looked_at(asked, tmp_path)
    (made,) = library.ssd300.call_args_list
    assert made.args[1:] == (6, {"voc": VOC_SIDES, "coco": COCO_SIDES}[kind])
    (_, size), settings = to_tune.call_args
    assert size(128, 160) == size(900, 40) == (300, 300)
    assert settings == {
        "augment": True,
        "batch": 3,
        "steps": range(2),
        "workers": 0,
        "seed": 3,
        "fill": approx(made.args[0].mean),
        "grouped": False,
        "pinned": False,
    }
    everywhere = [[i, 2, 0.9, 0, 0, 160, 128] for i in range(4)]
    torch.testing.assert_close(answer["figure_found"], torch.tensor(everywhere))


def test_faster_rcnn_sees_shapes_as_they_are_and_flips_alone(tmp_path: Path) -> None:
    answer, library, to_tune = looked_at(task(TINY), tmp_path)
    assert library.faster_rcnn.call_args.args[1:] == (6, 8)
    (_, size), settings = to_tune.call_args
    assert size(128, 160) == (48, 60) and size(100, 1000) == (8, 80)
    assert not settings["augment"] and settings["grouped"]
    everywhere = [[i, 2, 0.9, 0, 0, 160, 128] for i in range(4)]
    torch.testing.assert_close(answer["figure_found"], torch.tensor(everywhere))


def test_faster_rcnn_sees_800_pixels_and_512_regions_by_default(tmp_path: Path) -> None:
    asked = task("detection,data=shapes-voc,detector=faster-rcnn,iterations=1,batch=1")
    _, library, to_tune = looked_at(asked, tmp_path)
    assert library.faster_rcnn.call_args.args[2] == 512
    size = to_tune.call_args.args[1]
    assert size(480, 640) == (800, 1067) and size(400, 1200) == (444, 1333)


@pytest.mark.parametrize("detector", ["ssd300", "faster-rcnn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tuning_that_was_cut_short_ends_with_the_same_numbers(
    backend: str, detector: str, tmp_path: Path
) -> None:
    text = f"detection,data=shapes-voc,detector={detector},iterations=3,batch=2,backend={backend}"
    asked = task(text + (",size=48,rois=8" if detector == "faster-rcnn" else ""))
    answers = []
    for cut in (None, 1):
        here = subject(tmp_path, test=3)
        if cut:
            torch.manual_seed(0)
            replace(asked, iterations=cut).evaluate(here)
        torch.manual_seed(0)
        answer = {**asked.evaluate(here)}
        del answer["speed"]
        answers.append({k: v.tolist() if torch.is_tensor(v) else v for k, v in answer.items()})
    assert answers[0] == answers[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from mixbench.bench.cells import Run, Store
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill
from mixbench.tasks._detection import tuning
tuning.KEEP_SECONDS = 0.0
plain = tuning.Tuning.step
def counted(self, *batch):
    if len(self.losses) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, *batch)
tuning.Tuning.step = counted
results, data = map(Path, sys.argv[1:3])
fill(Run({setting!r}, "baseline", 0), [{task!r}], Lab(Store(results), data))
"""


def test_a_tuning_goes_on_with_the_same_images_and_weights_only(tmp_path: Path) -> None:
    asked, here = task(f"{TINY},backend=torchvision"), subject(tmp_path, test=3)
    replace(asked, iterations=1).evaluate(here)
    assert isinstance(here.data, Drawn)
    scenes = here.data.scenes("shapes-voc")
    moved = replace(scenes.train[0], boxes=scenes.train[0].boxes - 1)
    changed = replace(scenes, train=[moved, *scenes.train[1:]])
    with (
        patch.object(Drawn, "scenes", lambda *_: changed),
        pytest.warns(UserWarning, match="it starts again"),
    ):
        asked.evaluate(here)
    other = replace(subject(tmp_path, test=3), workplace=here.workplace)
    with torch.no_grad():
        other.net.get_parameter("layer2.0.conv1.weight").mul_(2)
    with pytest.warns(UserWarning, match="it starts again"):
        asked.evaluate(other)


def test_a_run_that_was_killed_while_tuning_goes_on_from_there(tmp_path: Path) -> None:
    name, run = f"{TINY},backend=torchvision", Run(SETTING, "baseline", 0)
    name = canonical(name, "mixbench.tasks", Task)
    killed, whole = (Lab(Store(tmp_path / kind), tmp_path / "data") for kind in ("killed", "whole"))
    script = KILLED.format(setting=SETTING, task=name)
    for step in (2, 3):
        command = [sys.executable, "-c", script, *map(str, (killed.store.root, killed.data, step))]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        kept = torch.load(killed.store.kept(Cell(run, name)), weights_only=True)
        assert len(kept["kept"]["losses"]) == step
    told = list[tuple[str, int, int]]()
    fill(run, [name], killed, lambda *what: told.append(what))
    assert (f"{name}: tuning a detector", 3, 4) in told
    assert (f"{name}: tuning a detector", 2, 4) not in told
    fill(run, [name], whole)
    one, other = (lab.store.read(Cell(run, name)) for lab in (killed, whole))
    assert one and other
    assert one["curves"] == other["curves"] and one["beside"] == other["beside"]
    one["metrics"].pop("speed"), other["metrics"].pop("speed")
    assert one["metrics"] == other["metrics"]
    assert not killed.store.kept(Cell(run, name)).exists()
