"""Results are handed to pandas, to spreadsheets and to TensorBoard as they are."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mixbench.bench
from mixbench.bench.cells import BadFile, Cell, Record, Run, Store, task
from mixbench.bench.export import csv, curves, results, tensorboard
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Table

COMMITTED = Path(__file__).parents[1] / "results"
RUN = Run("digits/small", "mixup,alpha=0.2", 3)
CELL = Cell(RUN, "classification")
OTHER = Cell(Run("digits/small", "baseline", 0), "calibration")
COLUMNS = ["setting", "method", "seed", "task", "metric", "value"]
TRAINED = {"seconds": 2.5, "device": "cpu", "commit": "1234567", "mixbench": "0.1.0"}


def record(cell: Cell, **metrics: float | None) -> Record:
    numbers = dict.fromkeys(task(cell.task).answered, 1.5) | metrics
    return cell.identity() | {"metrics": numbers, "made": {"training": TRAINED}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs, of which one has curves."""
    store = Store(tmp_path / "results")
    drawn = {"epoch_top1": [9.0, 4.5], "epoch_loss": [2.25, 1.0], "share": [1.0], "words": ["a"]}
    store.publish(CELL, record(CELL, top1=4.5) | {"curves": drawn})
    store.publish(OTHER, record(OTHER, ece=None))
    return store


@pytest.fixture(autouse=True)
def nothing_is_left_out() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", BadFile)
        yield


def test_the_committed_results_are_read_whole() -> None:
    table = results(COMMITTED)
    records = [json.loads(path.read_bytes()) for path in COMMITTED.rglob("[!.]*.json")]
    answered = [record for record in records if "inapplicable" not in record]
    assert len(table.groupby(["setting", "method", "seed", "task"])) == len(answered) > 0
    assert table[["seconds", "device", "commit", "mixbench"]].notna().all(axis=None)


def test_they_are_what_tables_are_made_of() -> None:
    table = Table("some", "", ("digits/small",), ("mixup", "baseline"), ("calibration", "ood"))
    expected = table.scores(Store(COMMITTED))[COLUMNS]
    assert len(expected)
    of_table = expected[["setting", "method", "task"]].drop_duplicates()
    found = results(COMMITTED)[COLUMNS].merge(of_table)
    pd.testing.assert_frame_equal(*(sorted_rows(each) for each in (found, expected)))


def sorted_rows(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(COLUMNS, ignore_index=True)


def test_each_number_has_a_row_that_says_where_it_is_from(store: Store) -> None:
    table = results(store.root)
    assert [*table.columns] == [*COLUMNS, *TRAINED]
    (row,) = table[table.metric == "top1"].to_dict("records")
    where = {"setting": "digits/small", "method": "mixup,alpha=0.2", "seed": 3}
    assert row == where | {"task": "classification", "metric": "top1", "value": 4.5} | TRAINED


def test_undefined_metrics_have_no_row(store: Store) -> None:
    table = results(store.root)
    assert "ece" not in set(table.metric) and "aece" in set(table.metric)


def test_columns_have_types_and_rows_an_order(store: Store, tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    table, none = results(store.root), results(empty)
    assert [*table.method.unique()] == ["baseline", "mixup,alpha=0.2"]
    assert [*table.index] == [*range(len(table))]
    for each in (table, none):
        assert each.seed.dtype == "int64"
        assert each.value.dtype == each.seconds.dtype == "float64"
        assert pd.api.types.is_string_dtype(each.method)


def test_the_package_offers_the_same(store: Store) -> None:
    pd.testing.assert_frame_equal(mixbench.bench.results(str(store.root)), results(store.root))
    pd.testing.assert_frame_equal(mixbench.bench.curves(str(store.root)), curves(store.root))


def test_reading_the_package_needs_neither_pandas_nor_torch() -> None:
    for module in ("mixbench.bench", "mixbench.bench.export"):
        code = f"import sys, {module}; assert not {{'pandas', 'torch'}} & {{*sys.modules}}"
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"metrics": {}}, "it has no top1"),
        ({"parameters": {"setting": {}, "method": {"alpha": 0.3}}}, "stale"),
        ({"method": "mixup,alpha=0.9"}, "lies elsewhere"),
    ],
)
def test_a_file_that_is_no_cell_of_today_is_named_and_left_out(
    store: Store, damage: dict[str, Any], why: str
) -> None:
    store.publish(CELL, record(CELL) | damage)
    with pytest.warns(BadFile, match=f"classification.json is treated as missing: .*{why}"):
        table = results(store.root)
    assert set(table.method) == {"baseline"}


def test_a_file_that_is_half_written_is_named_and_left_out(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(BadFile, match="classification.json"):
        assert set(results(store.root).method) == {"baseline"}


def test_what_made_a_cell_need_not_be_known(store: Store) -> None:
    odd = {"training": {"seconds": "long", "device": ["cpu"]}}
    store.publish(CELL, record(CELL) | {"made": odd})
    table = results(store.root)
    row = table[table.method == "mixup,alpha=0.2"].iloc[0]
    assert pd.isna(row.seconds) and [row.device, row.commit, row.mixbench] == ["", "", ""]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (results, curves):
        with pytest.raises(BadInput, match=r"there is no folder .*nowhere; name one"):
            read(tmp_path / "nowhere")


def test_curves_have_a_row_for_each_epoch(store: Store) -> None:
    table = curves(store.root)
    assert [*table.columns] == ["setting", "method", "seed", "epoch", "metric", "value"]
    assert table[["epoch", "metric", "value"]].values.tolist() == [
        [1, "loss", 2.25],
        [2, "loss", 1.0],
        [1, "top1", 9.0],
        [2, "top1", 4.5],
    ]
    assert set(table.method) == {"mixup,alpha=0.2"}


def test_curves_of_words_are_none(store: Store) -> None:
    store.publish(CELL, record(CELL) | {"curves": {"epoch_mood": ["bad", "worse"]}})
    assert curves(store.root).empty


def test_csv_reads_back_as_the_same_table(store: Store) -> None:
    table = results(store.root).assign(value=lambda t: t.value / 3)
    table.loc[0, "seconds"] = None
    again = pd.read_csv(StringIO(csv(table)), dtype={"commit": str})
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_csv_has_no_cell_that_a_spreadsheet_computes() -> None:
    texts = ["=1+1", "+1", "-1", "@x", "safe", "a,b"]
    lines = csv(pd.DataFrame({"text": texts, "number": [-1.0] * 6})).splitlines()
    assert lines[0] == "text,number"
    assert lines[1:5] == ["'=1+1,-1.0", "'+1,-1.0", "'-1,-1.0", "'@x,-1.0"]
    assert lines[5:] == ["safe,-1.0", '"a,b",-1.0']


def accumulated(folder: Path) -> Any:
    """What TensorBoard reads in a folder."""
    backend = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = backend.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("tensorboard")

    def test_it_reads_curves_and_metrics_of_each_run(self, store: Store, tmp_path: Path) -> None:
        out = Store(tmp_path / "board")
        written = tensorboard(store.root, out.root)
        assert [path.parent for path in written] == [out.folder(OTHER.run), out.folder(RUN)]
        board = accumulated(out.folder(RUN))
        steps = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags(board)}
        assert steps["epochs/top1"] == [(1, 9.0), (2, 4.5)]
        assert steps["epochs/loss"] == [(1, 2.25), (2, 1.0)]
        assert steps["classification/top1"] == [(0, 4.5)]
        assert not {"epochs/share", "epochs/words"} & {*steps}
        assert tags(accumulated(out.folder(OTHER.run))) == {
            "calibration/aece",
            "calibration/nll",
            "calibration/brier",
        }

    def test_it_reads_parameters(self, store: Store, tmp_path: Path) -> None:
        from tensorboard.plugins.hparams import metadata

        boxes = Cell(Run("digits/small", "cutmix,alpha=0.2,nested=True", 3), "classification")
        store.publish(boxes, record(boxes))
        tensorboard(store.root, tmp_path / "board")
        board = accumulated(Store(tmp_path / "board").folder(boxes.run))
        summary = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
        start = metadata.parse_session_start_info_plugin_data(summary.plugin_data.content)
        assert start.hparams["method"].string_value == "cutmix,alpha=0.2,nested=True"
        assert start.hparams["alpha"].number_value == 0.2
        assert start.hparams["seed"].number_value == 3
        assert start.hparams["at"].string_value == "['pixels']"
        assert start.hparams["nested"].WhichOneof("kind") == "bool_value"

    def test_the_same_results_give_the_same_files(self, store: Store, tmp_path: Path) -> None:
        (one, *_), (other, *_) = (tensorboard(store.root, tmp_path / name) for name in "ab")
        assert one.read_bytes() == other.read_bytes()

    def test_writing_again_replaces_the_files(self, store: Store, tmp_path: Path) -> None:
        board = tmp_path / "board"
        tensorboard(store.root, board)
        store.publish(CELL, record(CELL, top1=7.0))
        before = set(board.rglob("*"))
        tensorboard(store.root, board)
        assert set(board.rglob("*")) == before
        (top1,) = accumulated(Store(board).folder(RUN)).Scalars("classification/top1")
        assert top1.value == 7.0

    def test_a_name_that_is_no_text_does_not_stop_it(self, store: Store, tmp_path: Path) -> None:
        store.publish(CELL, record(CELL, **{"\ud800": 1.0}))
        tensorboard(store.root, tmp_path / "board")
        assert "classification/?" in tags(accumulated(Store(tmp_path / "board").folder(RUN)))


def tags(board: Any) -> set[str]:
    return set(board.Tags()["scalars"])


def test_without_the_package_it_says_what_to_install(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BadInput, match=r"pip install 'mixbench\[tensorboard\]'"):
        tensorboard(store.root, tmp_path / "board")
    assert not (tmp_path / "board").exists()
