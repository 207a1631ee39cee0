"""Results for other tools: data frames, CSV that spreadsheets don't compute, TensorBoard."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbench.bench.cells import Cell, Record, Store, warn, written_aside
from mixbench.bench.formats._csv import lines
from mixbench.bench.merge import Merged, visible, whole
from mixbench.bench.spec import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

RUN = {"setting": "str", "method": "str", "seed": "int64"}
MADE = {"seconds": "float64", "device": "str", "commit": "str", "mixbench": "str"}
RESULTS = {**RUN, "task": "str", "metric": "str", "value": "float64", **MADE}
CURVES = {**RUN, "epoch": "int64", "metric": "str", "value": "float64"}
"""Columns, and their types."""

EPOCH = "epoch_"
"""What the names of curves begin with that have a number for each epoch."""

EVENTS = "events.out.tfevents.mixbench"
"""The file of a run's events: TensorBoard asks for such a name."""


def results(folder: str | Path = "results") -> "pd.DataFrame":
    """Every metric of every cell in a folder with results, one number a row.

    Columns: setting, method, seed, task, metric, value; and of the run's training: seconds,
    device, commit and mixbench (its version), missing where the cell does not say. Metrics that
    are undefined are left out. Files that are damaged, foreign or stale are warned of, and left
    out. Raises BadInput if there is no such folder.
    """
    rows = [
        (*_run(cell), cell.task, metric, value, *_made(record))
        for cell, record in _cells(Path(folder))
        for metric, value in record.get("metrics", {}).items()
        if value is not None
    ]
    return _sorted(rows, RESULTS, ["setting", "method", "seed", "task"])


def curves(folder: str | Path = "results") -> "pd.DataFrame":
    """The training curves in a folder with results, one number a row; the rest as for ``results``.

    Columns: setting, method, seed, epoch (from 1), metric, value.
    """
    rows = [
        (*_run(cell), epoch, metric, value)
        for cell, record in _cells(Path(folder))
        for metric, curve in _epochs(record)
        for epoch, value in enumerate(curve, 1)
    ]
    return _sorted(rows, CURVES, ["setting", "method", "seed", "metric", "epoch"])


def csv(table: "pd.DataFrame") -> str:
    """A table as CSV: numbers in full; texts that a spreadsheet would compute after an apostrophe."""
    known = table.astype(object).where(table.notna(), None)
    return lines([list(table.columns), *known.itertuples(index=False)])


def tensorboard(folder: str | Path, out: str | Path) -> list[Path]:
    """Write what is in a folder with results as TensorBoard's event files: which were written.

    A run's is at OUT/<setting>/<method>/<seed>, and replaces one that is there: its training
    curves, its metrics as scalars without a step, and its parameters. Raises BadInput if there is
    no such folder, or if the package is missing.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise BadInput(
            "event files need a package that is missing: pip install 'mixbench[tensorboard]'"
        ) from None
    written = []
    for run, cells in groupby(_cells(Path(folder)), key=lambda found: found[0].run):
        path = Store(Path(out)).folder(run) / EVENTS
        _write(path, dict(cells))
        written.append(path)
    return written


def _cells(folder: Path) -> Iterator[tuple[Cell, Record]]:
    """The cells in a folder, those of each run in a row."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; name one with results")
    paths = sorted(path for path in folder.rglob("*.json") if visible(path.relative_to(folder)))
    refused = Merged()
    for found in whole(Store(folder), paths, refused):
        yield found.cell, found.record
    for path, why in refused.left_out.items():
        warn(path, why)


def _run(cell: Cell) -> tuple[str, str, int]:
    return cell.run.setting, cell.run.method, cell.run.seed


def _made(record: Record) -> tuple[Any, ...]:
    """``MADE``, of the training; None and '' where nothing is told, or something else."""
    training = record.get("made", {}).get("training", {})
    number = training.get("seconds")
    seconds = number if isinstance(number, float) else None
    texts = (training.get(name) for name in MADE if name != "seconds")
    return seconds, *(text if isinstance(text, str) else "" for text in texts)


def _epochs(record: Record) -> Iterator[tuple[str, list[float]]]:
    """The curves that have a number for each epoch, without ``EPOCH``."""
    for name, curve in record.get("curves", {}).items():
        numbers = isinstance(curve, list) and not any(isinstance(each, str) for each in curve)
        if name.startswith(EPOCH) and numbers:
            yield name.removeprefix(EPOCH), curve


def _sorted(rows: list[tuple[Any, ...]], types: Mapping[str, str], by: list[str]) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame(rows, columns=[*types]).astype(types)
    return table.sort_values(by, kind="stable", ignore_index=True)


def _write(path: Path, cells: Mapping[Cell, Record]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with written_aside(path) as aside, aside.open("wb") as file:
        writer = RecordWriter(file)
        for event in (Event(file_version="brain.Event:2"), *_events(cells)):
            writer.write(event.SerializeToString(deterministic=True))


def _events(cells: Mapping[Cell, Record]) -> "Iterator[Event]":
    """The parameters of a run, the metrics of its cells, and its curves, epoch by epoch."""
    from tensorboard.compat.proto.event_pb2 import Event

    (cell, record), *_ = cells.items()
    yield Event(summary=_parameters(cell, record))
    for cell, record in cells.items():
        for metric, value in record.get("metrics", {}).items():
            if value is not None:
                yield Event(summary=_scalar(f"{cell.task}/{metric}", value))
        for metric, curve in _epochs(record):
            for epoch, value in enumerate(curve, 1):
                yield Event(step=epoch, summary=_scalar(f"epochs/{metric}", value))


def _scalar(tag: str, value: float) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary

    readable = tag.encode(errors="replace").decode()
    return Summary(value=[Summary.Value(tag=readable, simple_value=value)])


def _parameters(cell: Cell, record: Record) -> "Summary":
    """Setting, method, seed and the method's parameters, as TensorBoard's HParams reads them."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION)
    named = dict(zip(RUN, _run(cell), strict=True))
    for name, value in (named | record["parameters"]["method"]).items():
        _set(data.session_start_info.hparams[name], value)
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString(deterministic=True)
    )
    value = Summary.Value(
        tag=metadata.SESSION_START_INFO_TAG,
        metadata=SummaryMetadata(plugin_data=plugin),
        tensor=metadata.NULL_TENSOR,
    )
    return Summary(value=[value])


def _set(field: Any, value: object) -> None:
    match value:
        case bool():
            field.bool_value = value
        case int() | float():
            field.number_value = value
        case _:
            field.string_value = str(value)
