"""The README says nothing that is not so."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import batch

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.cells import Run, Store
from mixbench.bench.figures import draw
from mixbench.bench.formats import printed
from mixbench.bench.nets.preactresnet import Pixels, small
from mixbench.bench.paper import TABLES
from mixbench.bench.spec import parse
from mixbench.bench.tables import Table, asked
from mixbench.methods import Method

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def committed(name: str) -> Table:
    """The table without methods and tasks that somebody has only just added."""
    table = TABLES[name]
    (setting,) = table.settings
    there = [m for m in table.methods if (ROOT / "results" / setting / m).exists()]
    there += [m for m in table.methods if inapplicable(setting, m)]
    assert len(there) >= min(len(table.methods), 17)
    methods = tuple(m for m in table.methods if m in there)
    cells = Store(ROOT / "results").folder(Run(setting, "baseline", 0))
    columns = tuple(c for c in table.columns if (cells / f"{asked(c)[0]}.json").exists())
    assert len(columns) >= min(len(table.columns), 11)
    return replace(table, methods=methods, columns=columns)


@pytest.mark.parametrize("name", ["quickstart", "quickstart-vit", "detection-demo"])
def test_the_committed_tables_are_printed_from_the_committed_cells(name: str) -> None:
    table, store = committed(name), Store(ROOT / "results")
    assert printed(table, store) == (ROOT / f"results/tables/{name}.md").read_text()
    assert printed(table, store, "csv") == (ROOT / f"results/tables/{name}.csv").read_text()
    assert not list(table.todo(store))


@pytest.mark.parametrize("name", ["reliability", "landscape"])
def test_the_committed_figures_are_drawn_from_the_committed_cells(
    name: str, tmp_path: Path
) -> None:
    draw(name, committed("quickstart"), Store(ROOT / "results"), 0, tmp_path / "a.svg")
    shown = (ROOT / f"results/figures/quickstart-{name}.csv").read_text()
    assert (tmp_path / "a.csv").read_text() == shown
    assert f"results/figures/quickstart-{name}.svg" in README


@pytest.mark.parametrize("name", ["quickstart", "detection-demo"])
def test_its_table_is_the_committed_one(name: str) -> None:
    assert (ROOT / f"results/tables/{name}.md").read_text() in README


def test_every_method_of_the_quickstart_is_above_95_percent() -> None:
    scores = committed("quickstart").scores(Store(ROOT / "results"))
    assert scores[scores.metric == "top1"].value.max() < 5


def test_its_method_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "gridmix.py").write_text(BLOCKS[0])
    monkeypatch.syspath_prepend(tmp_path)
    method: Any = parse("mylab.gridmix,cells=8", "mixbench.methods", Method)
    assert method.cells == 8
    x, y = batch(6)
    mixed, target = method.mix(x, y)
    assert mixed.shape == x.shape
    torch.testing.assert_close(target.sum(1), torch.ones(6))


def test_its_training_step_runs() -> None:
    trunk, _ = small(5, 8, (0.5,) * 3, (0.5,) * 3).split("layer3")
    names: dict[str, Any] = {
        "torch": torch,
        "normalise": Pixels((0.5,) * 3, (0.5,) * 3),
        "backbone": torch.nn.Sequential(trunk, torch.nn.LazyConv2d(512, 1)),
        "pool": torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        "classes": 5,
    }
    names["images"], names["one_hot_labels"] = batch(6)
    exec(BLOCKS[1], names)  # noqa: S102
    names["loss"].backward()
    assert names["net"].head.weight.grad.isfinite().all()


def test_its_two_set_up_commands_are_what_ci_runs() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert ["mixbench run quickstart" in line for line in commands] == [True, False]
    assert commands[1].endswith("tox")
    assert "grep '^python3 -m venv' README.md" in (ROOT / ".ci" / "run").read_text()
