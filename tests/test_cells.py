"""Cells: what counts as one, what is said of a file that is none, and who may work on a run."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbench.bench import catalogue
from mixbench.bench.cells import (
    BadFile,
    Cell,
    Record,
    Run,
    Store,
    digest,
    mismatch,
    written_aside,
)
from mixbench.bench.lab import Lab
from mixbench.bench.spec import BadInput

RUN = Run("digits/small", "mixup,alpha=0.2", 3)
CELL = Cell(RUN, "robustness,steps=5")


def record(**changes: Any) -> Record:
    return CELL.identity() | {"metrics": {"fgsm": 1.5, "pgd": 2.5}} | changes


def test_the_path_is_the_spelling(lab: Lab) -> None:
    path = lab.store.path(CELL)
    assert path == lab.store.root / "digits/small/mixup,alpha=0.2/3/robustness,steps=5.json"


def test_a_spelling_with_slashes_stays_one_folder(lab: Lab) -> None:
    folder = lab.store.folder(Run("digits/small", "mylab.mix,file=../../x", 0))
    assert folder.parent.parent == lab.store.root / "digits/small"


def test_what_is_published_is_read(lab: Lab) -> None:
    assert lab.store.missing(RUN, [CELL.task]) == [CELL.task]
    lab.store.publish(CELL, record())
    assert lab.store.read(CELL) == record()
    assert lab.store.missing(RUN, [CELL.task]) == []


def test_what_lies_beside_a_cell_is_read(lab: Lab) -> None:
    assert lab.store.arrays(CELL) == {}
    lab.store.publish(CELL, record(), {"points": np.arange(6.0).reshape(2, 3)})
    assert lab.store.arrays(CELL)["points"].tolist() == [[0, 1, 2], [3, 4, 5]]
    path = lab.store.path(CELL).with_suffix(".npz")
    assert path.name == "robustness,steps=5.npz"
    whole = path.read_bytes()
    lab.store.publish(CELL, record(), {"points": np.zeros(6)})
    for other in (whole, whole[:50]):
        path.write_bytes(other)
        with pytest.warns(BadFile, match=r"missing: it is not what was made with .*=5\.json"):
            assert lab.store.arrays(CELL) == {}


def test_a_cell_may_say_that_its_task_does_not_apply(lab: Lab) -> None:
    cell = CELL.identity() | {"inapplicable": "it mixes nothing"}
    lab.store.publish(CELL, cell)
    assert lab.store.read(CELL) == cell
    assert lab.store.missing(RUN, [CELL.task]) == []


def test_a_metric_may_be_undefined_but_not_missing(lab: Lab) -> None:
    cell = record(metrics={"fgsm": 1.5, "pgd": None})
    lab.store.publish(CELL, cell)
    assert '"pgd": null' in lab.store.path(CELL).read_text()
    assert lab.store.read(CELL) == cell
    assert lab.store.missing(RUN, [CELL.task]) == []


def test_a_record_resolves_every_parameter() -> None:
    parameters = record()["parameters"]
    method = {"version": 1, "p": 1.0, "at": ["pixels"], "alpha": 0.2, "k": 1, "shared": True}
    assert parameters["method"] == method
    assert parameters["setting"]["recipe"]["epochs"] == 15
    assert parameters["task"]["steps"] == 5
    assert parameters["task"]["version"] == 2


def stale() -> Record:
    parameters = json.loads(json.dumps(record()["parameters"]))
    parameters["setting"]["recipe"]["lr"] = 0.3
    return record(parameters=parameters)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (json.dumps(record())[:-20], "it can't be read"),
        ("", "it can't be read"),
        ("[1, 2]", "it is no record of this project"),
        (json.dumps({"hello": 1}), "it is no record of this project"),
        (json.dumps(record(seed=4)), "it is a record of seed 4"),
        (json.dumps(record(method="mixup")), "it is a record of method 'mixup'"),
        (json.dumps(stale()), "it is stale: setting.recipe.lr was 0.3, is 0.1 today"),
        (json.dumps(record(metrics={"fgsm": 1.0})), "it has no pgd"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": float("nan")})), "its pgd is nan"),
        (json.dumps(record(metrics=None)), "it has no metrics"),
        ("[" * 100_000, "it can't be read"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": "2.5"})), "its pgd is '2.5', not a number"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": float("-inf")})), "its pgd is -inf"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": True})), "its pgd is True, not a number"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": 10**400})), "not a number"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": 1e308})), "not a number"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": 2.0}) | {"x": "\ud800"}), "can't be read"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": [2.5]})), "its pgd is [2.5], not a number"),
        (json.dumps(record(metrics=[1.0, 2.5])), "it has no metrics"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": 2.0, "old": "=1+1"})), "its old is '=1+1'"),
        (json.dumps(record(metrics={"fgsm": 1.0, "pgd": 2.0, "a\nb": {}})), "its a\\nb is {}"),
        (json.dumps(record(inapplicable="it mixes nothing")), "it has metrics, and says"),
        (json.dumps(record(inapplicable=5)), "its inapplicable is 5, not a reason"),
        (json.dumps(record(curves=[1, 2])), "its curves are [1, 2]"),
        (json.dumps(record(curves={"eps": [1, None]})), "its curve eps is neither of numbers nor"),
        (json.dumps(record(curves={"eps": [1, "a"]})), "its curve eps is neither of numbers nor"),
        (json.dumps(record(curves={"eps": float("nan")})), "its curve eps is neither"),
        (json.dumps(record(curves={"eps": "a"})), "its curve eps is neither of numbers nor"),
        (json.dumps(record(made=None)), "what made it is None"),
        (json.dumps(record(made={"training": {}, "task": "a GPU"})), "what made it is 'a GPU'"),
        (json.dumps(record(method="a\nb" * 1000)), "it is a record of method 'a\\nb"),
        (json.dumps(record(parameters={"a\nb": "c" * 1000})), "it is stale: "),
        (json.dumps(record(parameters="@")).replace('"@"', '{"a": ' * 900 + "1" + "}" * 900), ""),
        ("null", "it is no record of this project"),
    ],
)
def test_a_bad_file_is_named_and_missing(lab: Lab, text: str, why: str) -> None:
    path = lab.store.path(CELL)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(BadFile) as warned:
        assert lab.store.read(CELL) is None
    (warning,) = warned
    assert str(warning.message).startswith(f"{path} is treated as missing: ")
    assert why in str(warning.message)
    assert "\n" not in str(warning.message)
    assert len(str(warning.message)) < len(str(path)) + 300


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x80abc", b"\0\0\0"])
def test_a_file_that_is_no_text_is_named_and_missing(lab: Lab, content: bytes) -> None:
    lab.store.path(CELL).parent.mkdir(parents=True)
    lab.store.path(CELL).write_bytes(content)
    with pytest.warns(BadFile, match="it can't be read"):
        assert lab.store.read(CELL) is None


def test_curves_of_numbers_and_of_words_are_read(lab: Lab) -> None:
    curves = {"eps": [0, 0.5], "names": ["a", "b"], "mean": 1.5, "none": []}
    lab.store.publish(CELL, record(curves=curves, made={"training": {}, "task": {}}))
    assert (lab.store.read(CELL) or {})["curves"] == curves


def test_a_name_that_stands_for_nothing_is_no_damage(lab: Lab) -> None:
    lab.store.publish(CELL, record())
    lab.store.path(CELL).rename(lab.store.path(CELL).with_name("clairvoyance.json"))
    with pytest.raises(BadInput, match="no task 'clairvoyance'"):
        lab.store.read(Cell(RUN, "clairvoyance"))


def test_a_complement_is_not_answered(lab: Lab) -> None:
    cell = Cell(RUN, "classification")
    rules = catalogue.task("classification").metrics
    metrics = dict.fromkeys([name for name, rule in rules.items() if not rule.complement], 1.5)
    assert "accuracy" in rules.keys() - metrics.keys()
    lab.store.publish(cell, cell.identity() | {"metrics": metrics})
    assert lab.store.read(cell)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4 cut short", b"\x93NUMPY"])
def test_what_lies_beside_and_is_no_archive_is_named(lab: Lab, content: bytes) -> None:
    lab.store.publish(CELL, record(beside=digest(content)))
    lab.store.path(CELL).with_suffix(".npz").write_bytes(content)
    with pytest.warns(BadFile, match=r"5\.npz is treated as missing: it can't be read"):
        assert lab.store.arrays(CELL) == {}


def test_a_folder_beside_a_cell_is_named(lab: Lab) -> None:
    lab.store.publish(CELL, record(), {"points": np.zeros(3)})
    beside = lab.store.path(CELL).with_suffix(".npz")
    beside.unlink()
    beside.mkdir()
    with pytest.warns(BadFile, match="it can't be read"):
        assert lab.store.arrays(CELL) == {}


def test_a_folder_in_place_of_an_error_is_no_failure(lab: Lab) -> None:
    lab.store.error(RUN).mkdir(parents=True)
    assert lab.store.failure(RUN) == ""


def test_a_folder_in_place_of_a_file_is_named_and_missing(lab: Lab) -> None:
    lab.store.path(CELL).mkdir(parents=True)
    with pytest.warns(BadFile, match="it can't be read"):
        assert lab.store.read(CELL) is None


def test_an_older_task_version_is_stale() -> None:
    parameters = record()["parameters"]
    old = record(parameters=parameters | {"task": parameters["task"] | {"version": 0}})
    assert "task.version was 0, is 2" in mismatch(old, CELL)


def test_a_parameter_younger_than_the_record_does_not_make_it_stale() -> None:
    parameters = json.loads(json.dumps(record()["parameters"]))
    del parameters["setting"]["recipe"]["smoothing"], parameters["method"]["k"]
    assert mismatch(record(parameters=parameters), CELL) == ""


def test_a_younger_parameter_that_is_not_at_its_default_makes_the_record_stale() -> None:
    parameters = json.loads(json.dumps(record()["parameters"]))
    del parameters["setting"]["recipe"]["holdout"]
    problem = mismatch(record(parameters=parameters), CELL)
    assert problem == "it is stale: setting.recipe.holdout was 0.0, is 0.2 today"


def test_a_parameter_that_is_gone_makes_it_stale() -> None:
    parameters = json.loads(json.dumps(record()["parameters"]))
    parameters["method"]["flavour"] = "sweet"
    assert "method.flavour" in mismatch(record(parameters=parameters), CELL)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    with written_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_claim_is_exclusive_and_ends(lab: Lab) -> None:
    assert not lab.store.claimed(RUN)
    with lab.store.claim(RUN) as first, lab.store.claim(RUN) as second:
        assert (first, second) == (True, False)
        assert lab.store.claimed(RUN)
    with lab.store.claim(RUN) as again:
        assert again


def test_a_claim_ends_with_the_process_that_is_killed(lab: Lab) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from mixbench.bench.cells import Run, Store\n"
        f"with Store(Path({str(lab.store.root)!r})).claim(Run{(RUN.setting, RUN.method, 3)}) as c:\n"
        "    print(c, flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "True\n"
    assert lab.store.claimed(RUN)
    holder.kill()
    holder.wait()
    assert not lab.store.claimed(RUN)


def test_those_who_look_are_not_taken_for_those_at_work(lab: Lab) -> None:
    with lab.store.claim(RUN):
        pass
    with (lab.store.folder(RUN) / ".claim").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as another process looks
        assert not lab.store.claimed(RUN)


def test_looking_leaves_nothing_behind(lab: Lab) -> None:
    assert not lab.store.claimed(RUN)
    assert not lab.store.root.exists()
    with lab.store.claim(RUN):
        assert lab.store.claimed(RUN)
    assert not lab.store.claimed(RUN)
    with lab.store.claim(RUN) as mine:
        assert mine


def test_a_file_system_without_locks_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    lab.store.check_writable()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BadInput, match=r"or locked \(Function not implemented\); name another"):
        lab.store.check_writable()


def test_a_file_in_place_of_a_runs_folder_leaves_all_missing(lab: Lab) -> None:
    lab.store.folder(RUN).parent.mkdir(parents=True)
    lab.store.folder(RUN).write_text("")
    assert lab.store.missing(RUN, [CELL.task]) == [CELL.task]
    assert not lab.store.claimed(RUN)


def test_a_folder_that_cannot_be_listed_is_named_and_leaves_all_missing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listdir(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    lab.store.publish(CELL, record())
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.warns(BadFile, match="mixup,alpha=0.2/3 is treated as missing: it can't be read"):
        assert lab.store.missing(RUN, [CELL.task]) == [CELL.task]


def test_what_is_missing_is_told_in_the_order_of_the_tasks(lab: Lab) -> None:
    tasks = ["temperature", CELL.task, "calibration", "ood", "cost"]
    lab.store.publish(CELL, record())
    assert lab.store.missing(RUN, tasks) == ["temperature", "calibration", "ood", "cost"]


def test_the_same_parameters_in_another_order_are_the_same() -> None:
    parameters = dict(reversed(record()["parameters"].items()))
    assert mismatch(record(parameters=parameters), CELL) == ""


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/results can't be written .* --results"):
        Store(tmp_path / "file" / "results").check_writable()


def test_reading_warns_of_nothing_when_all_is_well(lab: Lab) -> None:
    lab.store.publish(CELL, record())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lab.store.read(CELL)
