"""Runs, results and tables of the benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def results(folder: str | Path = "results") -> "pd.DataFrame":
    """Every metric of every cell in a folder with results, one number a row.

    Columns: setting, method, seed, task, metric, value; and of the run's training: seconds,
    device, commit and mixbench (its version). Files that are damaged, foreign or stale are warned
    of, and left out. Raises BadInput if there is no such folder.
    """
    from mixbench.bench import export

    return export.results(folder)


def curves(folder: str | Path = "results") -> "pd.DataFrame":
    """The training curves in a folder with results, one number a row.

    Columns: setting, method, seed, epoch (from 1), metric, value; the rest as for ``results``.
    """
    from mixbench.bench import export

    return export.curves(folder)
