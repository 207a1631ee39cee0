"""What is remembered of spellings: it is what the code says, and is forgotten when that changes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import pytest

from mixbench.bench import catalogue
from mixbench.bench.catalogue import (
    KEPT,
    Rule,
    changed,
    inapplicable,
    live_method,
    remembered,
    unfit,
)
from mixbench.bench.cells import method, task
from mixbench.bench.spec import BadInput, names, resolved, spell
from mixbench.methods import Guided

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a process that has asked nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    each: tuple[Callable[..., object], ...] = (catalogue.method, catalogue.task, catalogue._refusal)
    for function in each:
        function.cache_clear()  # type: ignore[attr-defined]
    yield catalogue._file()
    for function in each:
        function.cache_clear()  # type: ignore[attr-defined]


def known(file: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(file.read_bytes())["known"]
    return found


asked: list[str] = []


@remembered
def shouted(text: str) -> str:
    """Something that takes long to find out."""
    asked.append(text)
    return text.upper()


def times_asked(text: str) -> int:
    asked.clear()
    assert shouted(text) == text.upper()
    return len(asked)


def forget() -> None:
    """As a process does that ends."""
    catalogue._memory.cache_clear()


@pytest.mark.parametrize("name", names("mixbench.methods"))
def test_a_methods_entry_says_what_the_method_says(name: str) -> None:
    live, entry = method(name), catalogue.method(name)
    assert entry.spelling == name == spell(live, name)
    assert entry.parameters == entry.defaults == resolved(live) | {"version": live.version}
    assert (entry.teacher, entry.guided) == (live.teacher, isinstance(live, Guided))
    assert (entry.formula, entry.source) == (live.formula, live.source)
    assert entry.summary and (live.__doc__ or "").startswith(entry.summary)


@pytest.mark.parametrize("name", names("mixbench.tasks"))
def test_a_tasks_entry_has_the_rules_of_its_metrics(name: str) -> None:
    live, entry = task(name), catalogue.task(name)
    assert entry.parameters == resolved(live) | {"version": live.version}
    rules = {key: Rule(**asdict(metric)) for key, metric in live.metrics.items()}
    assert [*entry.metrics.items()] == [*rules.items()]


def test_what_is_read_back_is_what_was_found_out(file: Path) -> None:
    questions: list[tuple[Callable[..., object], tuple[str, ...]]] = [
        (catalogue.method, ("multimix,m=2,alpha=1+1,n=010",)),
        (catalogue.task, ("robustness,steps=5",)),
        (catalogue._refusal, ("digits/small", "transmix")),
    ]
    found = [ask(*texts) for ask, texts in questions]
    forget()
    for ask, _ in questions:
        ask.cache_clear()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("live_method", "live_task"):
            patch.setattr(catalogue, name, lambda text: pytest.fail("asked again"))
        assert [ask(*texts) for ask, texts in questions] == found
    assert (
        catalogue.method("multimix,m=2,alpha=1+1,n=010").spelling == "multimix,n=10,m=2,alpha=1+1"
    )


def test_a_question_is_asked_once_by_all_processes(file: Path) -> None:
    assert times_asked("mixup") == 1
    assert times_asked("mixup") == 0
    forget()
    assert times_asked("mixup") == 0
    assert times_asked("cutmix") == 1
    file.unlink()
    forget()
    assert times_asked("mixup") == 1


@pytest.mark.parametrize(
    "text",
    ["mylab.newmix", "mylab.newmix,cells=8", "folder:/a/b/resnet18", "stylemix,encoder=/a/b"],
)
def test_what_lies_elsewhere_is_asked_every_time(text: str, file: Path) -> None:
    assert times_asked(text) == times_asked(text) == 1
    assert not file.exists()


@pytest.mark.parametrize("text", ["mixpu", "mixup,alpa=1", "mixup,alpha=-1"])
def test_a_bad_spelling_is_refused_every_time(text: str, file: Path) -> None:
    for _ in range(2):
        with pytest.raises(BadInput):
            catalogue.method(text)
    assert not file.exists()


def test_a_setting_that_is_not_there_is_no_reason() -> None:
    with pytest.raises(BadInput, match="no dataset 'digit'"):
        inapplicable("digit/small", "mixup")
    with pytest.raises(BadInput, match="no method 'mixpu'"):
        inapplicable("digits/small", "mixpu")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"5", b'{"state": 1}', b'{"known": {}}'],
)
def test_a_damaged_file_is_written_anew(content: bytes, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert times_asked("mixup") == 1
    forget()
    assert times_asked("mixup") == 0


@pytest.mark.parametrize("answer", [None, {}, {"spelling": 5}, "mixup"])
def test_a_damaged_answer_is_asked_again(answer: object, file: Path) -> None:
    expected = catalogue.method("mixup")
    content = json.loads(file.read_bytes())
    content["known"] = dict.fromkeys(content["known"], answer)
    file.write_text(json.dumps(content))
    forget()
    catalogue.method.cache_clear()
    assert catalogue.method("mixup") == expected
    assert answer not in known(file).values()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert times_asked("mixup") == 1
    assert times_asked("mixup") == 0
    assert (tmp_path / "file").read_text() == ""


def test_nothing_lies_beside_the_file_when_it_is_written(file: Path) -> None:
    shouted("mixup")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_another_state_of_the_code_knows_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_asked("mixup")
    monkeypatch.setattr(catalogue, "CODE", "another")
    assert times_asked("mixup") == 1
    assert times_asked("cutmix") == 1
    assert len(known(file)) == 1
    assert len(known(catalogue._file())) == 2


def test_two_checkouts_in_turn_don_t_make_each_other_forget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for code, times in (("one", 1), ("other", 1), ("one", 0), ("other", 0)):
        monkeypatch.setattr(catalogue, "CODE", code)
        forget()
        assert times_asked("mixup") == times


def test_only_the_newest_files_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(KEPT + 2):
        monkeypatch.setattr(catalogue, "CODE", str(i))
        times_asked("mixup")
        os.utime(catalogue._file(), ns=(i, i))
    there = {*file.parent.iterdir()}
    assert len(there) == KEPT and catalogue._file() in there


def test_what_only_this_machine_lacks_is_no_reason_elsewhere() -> None:
    assert "there is no vgg_normalised.pth" in inapplicable("digits/small", "stylemix")
    assert unfit("digits/small", "stylemix") == ""
    assert unfit("digits/small", "transmix") == inapplicable("digits/small", "transmix") != ""


def test_weights_that_came_since_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert times_asked("stylemix") == 1
    assert times_asked("stylemix") == 0
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    assert times_asked("stylemix") == 1
    (tmp_path / "hub" / "checkpoints" / "decoder.pth").write_text("")
    os.utime(tmp_path / "hub" / "checkpoints", ns=(0, 5))
    assert times_asked("stylemix") == 1
    assert times_asked("stylemix") == 0


def test_a_file_has_changed_if_its_time_or_its_size_has(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert changed(path) == (0, 0)
    path.write_text("one")
    os.utime(path, ns=(5, 5))
    before = changed(path)
    os.utime(path, ns=(5, 6))
    after = changed(path)
    path.write_text("three")
    os.utime(path, ns=(5, 5))
    assert len({before, after, changed(path)}) == 3


def test_what_another_process_wrote_in_the_meantime_stays(file: Path) -> None:
    shouted("mixup")
    content = json.loads(file.read_bytes())
    content["known"]["of another"] = "ANOTHER"
    file.write_text(json.dumps(content))
    shouted("cutmix")
    assert set(known(file).values()) == {"MIXUP", "CUTMIX", "ANOTHER"}


def ask_all(texts: list[str]) -> None:
    for text in texts:
        shouted(text)


def test_processes_that_ask_at_once_lose_nothing_that_is_not_asked_again(file: Path) -> None:
    texts = [f"mixup,k={k}" for k in range(60)]
    context = get_context("fork")
    both = [context.Process(target=ask_all, args=(some,)) for some in (texts[:30], texts[30:])]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    there = set(known(file).values())
    lasts = ({text.upper() for text in some} for some in (texts[:30], texts[30:]))
    assert any(each <= there for each in lasts)  # of the one that wrote last, at least
    forget()
    ask_all(texts)
    assert set(known(file).values()) == {text.upper() for text in texts}


READING = """
import sys
from pathlib import Path
from mixbench.bench import paper, sheets
from mixbench.bench.cells import Store
table, store = paper.TABLES["quickstart"], Store(Path("results"))
print(len(sheets.sheet(table, store).records), *({"torch", "timm", "torchvision"} & {*sys.modules}))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code in another folder, and one cell of its results."""
    for name in ("bench", "methods", "tasks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "code" / "mixbench" / name, ignore=ignored)
    cell = Path("results/digits/small/mixup/0/classification.json")
    (tmp_path / cell).parent.mkdir(parents=True)
    shutil.copy(ROOT / cell, tmp_path / cell)
    return tmp_path


def test_results_are_read_without_torch_until_the_code_changes(copy: Path) -> None:
    def read() -> tuple[list[str], str]:
        environment = os.environ | {"PYTHONPATH": str(copy / "code")}
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", READING],
            cwd=copy,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.split(), done.stderr

    (number, *libraries), warned = read()
    assert (number, "torch" in libraries, "stale" in warned) == ("1", True, False)
    assert read()[0] == ["1"]
    path = copy / "code" / "mixbench" / "methods" / "mixup.py"
    text = path.read_text()
    field = "    source: ClassVar[str]"
    assert field in text
    path.write_text(text.replace(field, f"    version: ClassVar[int] = 99\n{field}", 1))
    (number, *libraries), warned = read()
    assert (number, "torch" in libraries) == ("0", True)
    assert "it is stale: method.version was 1, is 99 today" in warned
    (number, *libraries), warned = read()
    assert (number, libraries) == ("0", [])
    assert "it is stale: method.version was 1, is 99 today" in warned


def test_live_methods_are_those_of_the_catalogue() -> None:
    assert live_method("mixup,alpha=0.2") == method("mixup,alpha=0.2")
