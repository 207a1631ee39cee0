"""What is behind the numbers of the page."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixbench.bench.cells import Cell, Record, Store, is_number
from mixbench.bench.page._published import told
from mixbench.bench.sheets import Entry, Sheet
from mixbench.bench.spec import write as spelled
from mixbench.bench.tables import Column


@dataclass
class Shelf:
    """Things that stand in a list once, however often they are put there."""

    things: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def put(self, thing: Any) -> int:
        key = json.dumps(thing, sort_keys=True)
        if key not in self.places:
            self.places[key] = len(self.things)
            self.things.append(thing)
        return self.places[key]


class Archive:
    """What is behind the numbers: of each its cells, and of each cell how it was made."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: list[Record] = []
        self.cells, self.made, self.parameters = Shelf(), Shelf(), Shelf()

    def data(self) -> Record:
        return {
            "entries": self.entries,
            "cells": self.cells.things,
            "made": self.made.things,
            "parameters": self.parameters.things,
        }

    def add(self, column: Column, method: str, entry: Entry, sheet: Sheet) -> int:
        """The place of an entry."""
        record: Record = {
            "method": method,
            "title": sheet.title(column),
            "task": column.task,
            "setting": column.setting,
            "cells": [
                [self._cell(cell, sheet.records[cell]), entry.values.get(cell.run.seed)]
                for cell in entry.cells
            ],
        }
        if entry.why:
            record["why"] = entry.why
        if entry.reported:
            record["reported"] = told(entry, column)
        self.entries.append(record)
        return len(self.entries) - 1

    def _cell(self, cell: Cell, record: Record) -> int:
        made = record.get("made", {})
        training, task = made.get("training", {}), made.get("task", {})
        kept = ("device", "torch", "commit", "command")
        return self.cells.put(
            {
                "file": self.store.path(cell).relative_to(self.store.root).as_posix(),
                "seed": cell.run.seed,
                "made": self.made.put({key: _both(training, task, key) for key in kept}),
                "training": _number(training.get("seconds")),
                "seconds": _number(task.get("seconds")),
                "time": str(task.get("time", "")),
                "parameters": {
                    what: self.parameters.put(dict(flat(tree)))
                    for what, tree in record["parameters"].items()
                },
            }
        )


def _number(found: Any) -> float | None:
    return found if is_number(found) else None


def _both(training: Record, task: Record, key: str) -> str:
    """What a network was trained with, and what it was asked with if that is something else."""
    return ", then ".join(dict.fromkeys(str(m[key]) for m in (training, task) if m.get(key)))


def flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Parameters and their spellings; those within others by their path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, spelled(tuple(value) if isinstance(value, list) else value)
