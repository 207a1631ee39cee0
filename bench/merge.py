"""Results of several places, in one store."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from mixbench.bench import catalogue
from mixbench.bench.cells import (
    Cell,
    Record,
    Run,
    Store,
    digest,
    malformed,
    mismatch,
    setting,
    written_aside,
)
from mixbench.bench.spec import BadInput, one_line


@dataclass
class Merged:
    """How many cells were copied, or were there already; the files that were not, and why."""

    copied: int = 0
    already_there: int = 0
    conflicts: dict[Path, str] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """A cell in another folder, and the content of what lies beside it, if anything does."""

    path: Path
    cell: Cell
    record: Record
    content: bytes
    beside: bytes | None


def merge(folders: Sequence[Path], store: Store) -> Merged:
    """Copy the cells of other results folders, and what lies beside them, into the store.

    A cell with the metrics and curves of the store's own is the same, whoever made it; one with
    others is a conflict, which the user has to settle, and the store keeps its own, even if it is
    damaged or stale. The first folder goes first. Left out are files that are damaged, foreign, stale or of a
    method that can't be imported here, and runs that a process is at work on. Checkpoints are not
    copied. A merge that was cut short can be made again, to the same end.

    Raises BadInput if a folder is not there, holds no cell, is the store, or in it or around it.
    """
    files = {folder: _files(folder, store) for folder in folders}
    store.check_writable()
    merged = Merged()
    for folder, paths in files.items():
        found = whole(Store(folder), paths, merged)
        for run, some in groupby(found, key=lambda each: each.cell.run):
            _take_run(run, list(some), store, merged)
    return merged


def _files(folder: Path, store: Store) -> list[Path]:
    """What may be cells, those of each run in a row. Raises BadInput."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; name one with results")
    here, there = store.root.resolve(), folder.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise BadInput(f"{folder} is or overlaps the store {store.root}; name other results")
    files = sorted(path for path in folder.rglob("*.json") if visible(path.relative_to(folder)))
    if not files:
        raise BadInput(f"{folder} holds no cell; name a folder with results")
    return files


def visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def whole(folder: Store, paths: Sequence[Path], merged: Merged) -> Iterator[_Found]:
    """Those that are cells; the others are left out."""
    for path in paths:
        try:
            yield _read(path, folder)
        except Exception as error:  # a file can hold anything, also the name of a broken module
            merged.left_out[path] = one_line(error)


def _read(path: Path, folder: Store) -> _Found:
    """The cell that a file holds. Raises BadInput if it is not one of today, in its place."""
    content = path.read_bytes()
    record = json.loads(content)
    cell = _named(record)
    if path != folder.path(cell):
        raise BadInput(f"it is a record of {cell.run}/{cell.task}, which lies elsewhere in results")
    if problem := mismatch(record, cell) or malformed(record, cell):
        raise BadInput(problem)
    beside = _beside(path)
    return _Found(path, cell, record, content, beside.read_bytes() if beside.exists() else None)


def _named(record: object) -> Cell:
    """The cell that a record names, in canonical spelling. Raises BadInput."""
    match record:
        case {"setting": str(where), "method": str(how), "seed": int(seed), "task": str(what)}:
            run = Run(str(setting(where)), catalogue.method(how).spelling, seed)
            return Cell(run, catalogue.task(what).spelling)
    raise BadInput("it is no record of this project")


def _beside(path: Path) -> Path:
    return path.with_suffix(".npz")


def _take_run(run: Run, found: Sequence[_Found], store: Store, merged: Merged) -> None:
    """Take the cells of a run, unless a process is at work on it."""
    with store.claim(run) as mine:
        for each in found:
            if mine:
                _take(each, store, merged)
            else:
                merged.left_out[each.path] = "a process is at work on its run in the store"


def _take(found: _Found, store: Store, merged: Merged) -> None:
    """Take a cell, and what lies beside it first, so that a cell that is there is whole."""
    own = store.read(found.cell)
    if own is None and (path := store.path(found.cell)).exists():
        merged.conflicts[found.path] = f"{path} is damaged or stale; remove it to take this one"
        return
    if own and (difference := _difference(found, own)):
        merged.conflicts[found.path] = difference
        return
    _take_beside(found, own or found.record, store, merged)
    if own:
        merged.already_there += 1
        return
    with written_aside(store.path(found.cell)) as aside:
        aside.write_bytes(found.content)
    merged.copied += 1


def _difference(found: _Found, own: Record) -> str:
    """The first metric in which a cell differs from the store's own, main ones first; else ''."""
    metrics = catalogue.task(found.cell.task).metrics
    theirs, ours = found.record.get("metrics", {}), own.get("metrics", {})
    for name in sorted(metrics, key=lambda name: not metrics[name].main):
        if theirs.get(name) != ours.get(name):
            return f"its {name} is {theirs.get(name)}, that in the store is {ours.get(name)}"
    same = found.record.get("curves") == own.get("curves")
    return "" if same else "its curves are not those in the store"


def _take_beside(found: _Found, record: Record, store: Store, merged: Merged) -> None:
    """Take what lies beside a cell if it was made with that record, and is not there yet."""
    path, expected = _beside(store.path(found.cell)), record.get("beside")
    if found.beside is None or (path.exists() and digest(path.read_bytes()) == expected):
        return
    if digest(found.beside) != expected:
        merged.left_out[_beside(found.path)] = f"it was not made with {found.path.name}"
        return
    with written_aside(path) as aside:
        aside.write_bytes(found.beside)
