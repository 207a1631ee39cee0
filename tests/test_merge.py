"""Results of several places become one store's, and nothing is lost or overwritten."""

import json
import os
import signal
import warnings
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbench.bench.cells import BadFile, Cell, Record, Run, Store, task
from mixbench.bench.merge import Merged, merge
from mixbench.bench.spec import BadInput

RUN = Run("digits/small", "mixup,alpha=0.2", 3)
CELL = Cell(RUN, "robustness")
CURVED = Cell(RUN, "calibration")
OTHER = Cell(Run("digits/small", "baseline", 0), "embedding")
POINTS = {"points": np.arange(6.0)}

METHOD = """
from dataclasses import dataclass
from mixbench.methods import Method

@dataclass(frozen=True)
class Elsewhere(Method):
    pass
"""


def record(cell: Cell, made: str = "here", **metrics: float | None) -> Record:
    numbers = dict.fromkeys(task(cell.task).metrics, 1.5) | metrics
    return cell.identity() | {"metrics": numbers, "made": {"training": {"device": made}}}


def curved(*curve: float) -> Record:
    return record(CURVED) | {"curves": {"share": list(curve)}}


def tree(store: Store) -> dict[str, bytes]:
    """All files that are no claims."""
    files = (path for path in store.root.rglob("*") if path.is_file() and path.name != ".claim")
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files}


def counts(merged: Merged) -> tuple[int, int, int, int]:
    return (
        merged.copied,
        merged.already_there,
        len(merged.conflicts),
        len(merged.left_out),
    )


@pytest.fixture
def there(tmp_path: Path) -> Store:
    """Another place's results: two runs, three cells, one of them with a file beside it."""
    store = Store(tmp_path / "there")
    store.publish(CELL, record(CELL, "there"))
    store.publish(CURVED, curved(0.25, 0.75))
    store.publish(OTHER, record(OTHER), POINTS)
    return store


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Store]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", BadFile)
        yield Store(tmp_path / "here")


def test_cells_and_what_lies_beside_them_are_copied_as_they_are(here: Store, there: Store) -> None:
    assert counts(merge([there.root], here)) == (3, 0, 0, 0)
    assert tree(here) == tree(there)
    assert here.arrays(OTHER)["points"].tolist() == [0, 1, 2, 3, 4, 5]


def test_merging_again_changes_nothing(here: Store, there: Store) -> None:
    merge([there.root], here)
    before = {path: path.stat().st_mtime_ns for path in here.root.rglob("*.*")}
    assert counts(merge([there.root, there.root], here)) == (0, 3, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in here.root.rglob("*.*")} == before


def test_what_belongs_to_this_machine_alone_stays_where_it_is(here: Store, there: Store) -> None:
    expected = tree(there)
    folder = there.folder(RUN)
    for name in ("checkpoint.pt", "robustness.pt", "error.txt", ".progress.json", ".job.json"):
        (folder / name).write_text("{}")
    assert counts(merge([there.root], here)) == (3, 0, 0, 0)
    assert tree(here) == expected


def test_the_same_numbers_made_elsewhere_are_no_conflict(here: Store, there: Store) -> None:
    here.publish(CELL, record(CELL, "here"))
    own = here.path(CELL).read_bytes()
    assert counts(merge([there.root], here)) == (2, 1, 0, 0)
    assert here.path(CELL).read_bytes() == own


def test_other_numbers_are_a_conflict_and_the_store_keeps_its_own(
    here: Store, there: Store
) -> None:
    here.publish(CELL, record(CELL, pgd=2.25))
    own = here.path(CELL).read_bytes()
    merged = merge([there.root], here)
    assert counts(merged) == (2, 0, 1, 0)
    assert merged.conflicts == {there.path(CELL): "its pgd is 1.5, that in the store is 2.25"}
    assert here.path(CELL).read_bytes() == own


def test_a_main_metric_is_named_before_others(here: Store, there: Store) -> None:
    there.publish(CURVED, record(CURVED, aece=0.5, nll=0.25))
    here.publish(CURVED, record(CURVED))
    (why,) = merge([there.root], here).conflicts.values()
    assert why == "its nll is 0.25, that in the store is 1.5"


def test_other_curves_are_a_conflict(here: Store, there: Store) -> None:
    here.publish(CURVED, curved(0.5, 0.5))
    merged = merge([there.root], here)
    assert merged.conflicts == {there.path(CURVED): "its curves are not those in the store"}


def test_what_does_not_apply_here_and_has_numbers_there_is_a_conflict(
    here: Store, there: Store
) -> None:
    here.publish(CELL, CELL.identity() | {"inapplicable": "it mixes nothing"})
    merged = merge([there.root], here)
    assert list(merged.conflicts) == [there.path(CELL)]
    assert here.read(CELL) == CELL.identity() | {"inapplicable": "it mixes nothing"}


def test_of_two_folders_the_first_gives_a_cell(here: Store, there: Store, tmp_path: Path) -> None:
    third = Store(tmp_path / "third")
    third.publish(CELL, record(CELL, fgsm=9.5))
    for _ in range(2):
        merged = merge([third.root, there.root], here)
        assert merged.conflicts == {there.path(CELL): "its fgsm is 1.5, that in the store is 9.5"}
    assert here.path(CELL).read_bytes() == third.path(CELL).read_bytes()


def test_a_damaged_cell_of_the_store_is_named_and_left(here: Store, there: Store) -> None:
    here.path(CELL).parent.mkdir(parents=True)
    here.path(CELL).write_text("{")
    with pytest.warns(BadFile, match=r"robustness\.json is treated as missing"):
        merged = merge([there.root], here)
    assert counts(merged) == (2, 0, 1, 0)
    (why,) = merged.conflicts.values()
    assert why == f"{here.path(CELL)} is damaged or stale; remove it to take this one"
    assert here.path(CELL).read_text() == "{"


def stale(content: Record) -> Record:
    parameters = content["parameters"] | {"task": {"version": 0}}
    return content | {"parameters": parameters}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "JSONDecodeError: "),
        ("[" * 100_000, "RecursionError: "),
        ("[1, 2]", "it is no record of this project"),
        ('{"name": "package"}', "it is no record of this project"),
        (record(OTHER), "it is a record of digits/small/baseline/0/embedding"),
        (stale(record(CELL)), "it is stale: "),
        (record(CELL) | {"metrics": {"fgsm": 1.0}}, "it has no pgd"),
        (record(CELL) | {"method": "nolab.mix"}, "nolab.mix can't be imported: "),
        (record(CELL) | {"method": "mixin"}, "no method 'mixin'; did you mean"),
        (record(CELL) | {"method": "mixup,alpha=0.20"}, "it is a record of method 'mixup,alpha="),
        (record(CELL) | {"seed": "3"}, "it is no record of this project"),
    ],
)
def test_what_is_no_cell_of_today_is_left_out_and_named(
    here: Store, there: Store, content: Any, why: str
) -> None:
    path = there.path(CELL)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    merged = merge([there.root], here)
    assert counts(merged) == (2, 0, 0, 1)
    assert merged.left_out[path].startswith(why)
    assert not here.path(CELL).exists()


def test_a_method_of_the_users_own_is_merged_where_it_can_be_imported(
    here: Store, there: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    cell = Cell(Run("digits/small", "elsewhere.method", 0), "robustness")
    there.publish(cell, record(cell))
    assert counts(merge([there.root], here)) == (4, 0, 0, 0)


def test_a_file_beside_that_was_not_made_with_its_cell_is_left_out(
    here: Store, there: Store
) -> None:
    beside = there.path(OTHER).with_suffix(".npz")
    beside.write_bytes(beside.read_bytes()[:50])
    merged = merge([there.root], here)
    assert counts(merged) == (3, 0, 0, 1)
    assert merged.left_out == {beside: "it was not made with embedding.json"}
    assert here.read(OTHER) and here.arrays(OTHER) == {}


def test_a_file_beside_may_follow_its_cell(here: Store, there: Store) -> None:
    beside = there.path(OTHER).with_suffix(".npz")
    content = beside.read_bytes()
    beside.unlink()
    merge([there.root], here)
    assert here.arrays(OTHER) == {}
    beside.write_bytes(content)
    assert counts(merge([there.root], here)) == (0, 3, 0, 0)
    assert here.arrays(OTHER)["points"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_file_that_lies_beside_no_cell_is_replaced(here: Store, there: Store) -> None:
    here.publish(OTHER, record(OTHER), {"points": np.zeros(3)})
    here.path(OTHER).unlink()
    assert counts(merge([there.root], here)) == (3, 0, 0, 0)
    assert tree(here) == tree(there)


def test_a_file_beside_is_not_given_to_a_cell_that_was_made_with_another(
    here: Store, there: Store
) -> None:
    here.publish(OTHER, record(OTHER), {"points": np.zeros(3)})
    here.path(OTHER).with_suffix(".npz").unlink()
    merged = merge([there.root], here)
    assert counts(merged) == (2, 1, 0, 1)
    assert list(merged.left_out) == [there.path(OTHER).with_suffix(".npz")]
    assert here.arrays(OTHER) == {}


def test_a_run_that_a_process_is_at_work_on_is_left_out(here: Store, there: Store) -> None:
    with here.claim(RUN):
        merged = merge([there.root], here)
    assert counts(merged) == (1, 0, 0, 2)
    assert set(merged.left_out) == {there.path(CELL), there.path(CURVED)}
    assert set(merged.left_out.values()) == {"a process is at work on its run in the store"}
    assert counts(merge([there.root], here)) == (2, 1, 0, 0)


def merge_until_killed(folder: Path, store: Store, written: int) -> None:
    """Merge in a process that is killed when it has written so many files, and one in part."""
    fsync, files = os.fsync, iter(range(written))

    def killed(file: int) -> None:
        if next(files, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = killed  # type: ignore[assignment]
    merge([folder], store)


@pytest.mark.parametrize("written", range(4))
def test_a_merge_that_was_killed_can_be_made_again(here: Store, there: Store, written: int) -> None:
    arguments = there.root, here, written
    process = get_context("fork").Process(target=merge_until_killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    cells = sum(not path.name.startswith(".") for path in here.root.rglob("*.json"))
    assert counts(merge([there.root], here)) == (3 - cells, cells, 0, 0)
    assert tree(here) == tree(there)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "there is no folder .*nowhere; name"),
        ("empty", "empty holds no cell; name"),
        ("here", "here is or overlaps the store .*here; name"),
        ("here/digits", "here/digits is or overlaps the store .*here; name"),
        (".", "is or overlaps the store .*here; name"),
        ("link", "link is or overlaps the store .*here; name"),
        ("there/digits/small/baseline/0/embedding.json", "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_merged_is_refused_before_anything_is_copied(
    here: Store, there: Store, tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden" / "classification.json").write_text("{}")
    here.publish(CELL, record(CELL))
    (tmp_path / "link").symlink_to(here.root)
    before = tree(here)
    with pytest.raises(BadInput, match=why):
        merge([there.root, tmp_path / name], here)
    assert tree(here) == before


def test_a_store_that_cannot_be_written_is_refused(there: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can't be written"):
        merge([there.root], Store(tmp_path / "file"))
