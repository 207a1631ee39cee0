"""What a small network, trained for four epochs, is worth to detectors that are tuned for minutes."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet")

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.lab import Lab
from mixbench.bench.runs import fill
from mixbench.bench.spec import canonical
from mixbench.tasks import Task

RUN = Run("shapes/resnet18,epochs=4", "baseline", 0)
SSD = "detection,data=shapes-voc,detector=ssd300,iterations=200,batch=8,lr=0.002"
FASTER = "detection,data=shapes-coco,detector=faster-rcnn,iterations=150,batch=4,lr=0.005,size=128,rois=32"
RACCOONS = Path(__file__).parents[2] / "shared" / "data" / "raccoon-voc" / "VOC2007"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("transfer")
    return Lab(Store(root / "results"), root / "data")


def record(lab: Lab, task: str) -> Any:
    name = canonical(task, "mixbench.tasks", Task)
    fill(RUN, [name], lab)
    return lab.store.read(Cell(RUN, name))


@pytest.mark.parametrize(
    ("task", "metric", "floor"), [(SSD, "map", 15), (FASTER, "ap50", 15)], ids=["ssd", "faster"]
)
def test_the_loss_falls_and_shapes_are_found(
    lab: Lab, task: str, metric: str, floor: float
) -> None:
    found = record(lab, task)
    loss = found["curves"]["loss"]
    assert sum(loss[-5:]) < 0.5 * sum(loss[:5])
    assert found["metrics"][metric] > floor


@pytest.mark.skipif(not RACCOONS.exists(), reason="the photographs are not here")
def test_raccoons_are_found_in_photographs(lab: Lab) -> None:
    found = record(lab, f"detection,data=voc:{RACCOONS},iterations=120,batch=8,lr=0.002")
    loss = found["curves"]["loss"]
    assert found["curves"]["classes"] == ["raccoon"]
    assert sum(loss[-5:]) < 0.5 * sum(loss[:5])
    assert found["metrics"]["map"] > 20
