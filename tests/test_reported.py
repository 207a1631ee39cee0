"""Published figures: that they are those of the papers, whose doubts go with them, and bad files."""

import csv
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixbench.bench.cells import BadFile, Cell, Run, Store
from mixbench.bench.paper import TABLES
from mixbench.bench.reported import COLUMNS, GAIN, OURS, PUBLISHED, Reported, reported, shipped
from mixbench.bench.settings import Setting
from mixbench.bench.spec import BadInput, canonical
from mixbench.bench.tables import Column, Table, asked
from mixbench.methods import Method

FOLDER = Path(__file__).parents[1] / "results" / "reported"
SHARED = Path(__file__).parents[2] / "shared" / "paper_tables"
FILES = {
    "multimix-table1": ("table1_properties", 30),
    "multimix-table2": ("table2_classification", 45),
    "multimix-table3": ("table3_imagenet_speed", 31),
    "multimix-table4": ("table4_adversarial", 80),
    "multimix-table5": ("table5_detection", 26),
    "multimix-ood": ("ood_poster", 108),
    "multimix-embedding": ("alignment_uniformity", 8),
    "multimix-intrusion": ("intrusion_distance", 5),
    "multimix-figure4": ("ablation_text", 10),
    "kmix": ("multimix_k", 6),
    "second-sources": ("second_sources", 109),
}
COMPILED = {"leaderboard": 57}
"""Files of figures that stand in the others, too; what is in them is tested beside their tables."""

KINDS = {
    "arithmetic",
    "contradiction",
    "conversion",
    "definition",
    "duplicate",
    "name",
    "plausibility",
    "protocol",
    "provenance",
    "recipe",
    "reference",
    "std",
}
METHODS = {
    "Gain": GAIN,
    "Baseline": "baseline",
    "Input mixup": "mixup",
    "Manifold mixup": "manifold",
    "CutMix": "cutmix",
    "AugMix": "augmix",
    "SaliencyMix": "saliencymix",
    "StyleMix": "stylemix",
    "PuzzleMix": "puzzlemix",
    "Co-Mixup": "comixup",
    "C-Mixup": "comixup",
    "TransMix": "transmix",
    "TokenMix": "tokenmix",
    "AlignMixup": "alignmixup",
    "zeta-Mixup": "zetamixup",
    "MultiMix": "multimix",
    "Dense MultiMix": "densemultimix",
    "Dense MultiMix (alpha=1 fixed)": "densemultimix",
    "Dense MultiMix (alpha~U[0.5,2])": "densemultimix",
    "multi-mix": "multiple",
}
DATA = {
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "CIFAR-100 test": "cifar100",
    "CIFAR-100 train": "cifar100",
    "TinyImageNet": "tinyimagenet",
    "ImageNet-1k": "imagenet",
    "VOC07+12": "imagenet",
    "MS-COCO": "imagenet",
    "LSUN (crop)": "cifar100",
    "iSUN": "cifar100",
    "TinyImageNet (crop)": "cifar100",
}
NETS = {
    "R-18": "preactresnet18",
    "W16-8": "wrn16-8",
    "R-50": "resnet50",
    "ViT-S/16": "vit-small",
    "SSD R-50": "resnet50",
    "Faster-RCNN R-50": "resnet50",
    "not stated": "resnet50",
}
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ROWS = {name: read(FOLDER / f"{name}.csv") for name in (*FILES, *COMPILED)}
MAPPED = [row for rows in ROWS.values() for row in rows if row["column"]]


def kinds(row: Row) -> list[str]:
    return [doubt.partition(": ")[0] for doubt in row["doubt"].split(" | ") if doubt]


def of(name: str, setting: str, method: str, column: str) -> Reported:
    (place,) = (c for c in TABLES[name].each_column() if (c.setting, c.metric) == (setting, column))
    return reported(TABLES[name], FOLDER)[place, method]


def test_every_published_table_has_its_file_and_each_file_all_rows() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*ROWS}
    published = {name: number for name, (_, number) in FILES.items()}
    assert {name: len(rows) for name, rows in ROWS.items()} == published | COMPILED


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_plain_and_ends_lines_with_lf(name: str) -> None:
    text = (FOLDER / f"{name}.csv").read_bytes()
    assert text.endswith(b"\n")
    assert b"\r" not in text
    assert text.isascii()
    assert text.startswith(",".join(COLUMNS).encode())


@pytest.mark.skipif(not SHARED.exists(), reason="the transcripts are not here")
@pytest.mark.parametrize("name", FILES)
def test_figures_are_those_of_the_transcript(name: str) -> None:
    names = {"name": "method"}
    keys = PUBLISHED[1:]
    theirs = read(SHARED / f"{FILES[name][0]}.csv")
    assert [[row[key] for key in keys] for row in ROWS[name]] == [
        [row[names.get(key, key)] for key in keys] for row in theirs
    ]


def names_it(doubt: Row, row: Row) -> bool:
    """Whether a doubt of the transcript is of a row, by what it says in words."""
    return (
        doubt["dataset"] in {"", "all", row["dataset"]}
        and doubt["network"] in {"", "all", "both", row["network"]}
        and names_the_method(doubt, row)
        and names_the_metric(doubt["metric"], row)
    )


def names_the_method(doubt: Row, row: Row) -> bool:
    name, gain = row["name"], row["name"].startswith("Gain")
    listed = [method.strip() for method in re.split("[/,]", doubt["method"])]
    match doubt["method"]:
        case "all" | "header":
            return True
        case "Gain":
            return gain
        case "first nine rows":
            return not gain and "MultiMix" not in name
        case _ if doubt["table"] == "ablation_text":
            return doubt["value"] == row["value"]
    return name in listed or (name == "Manifold mixup" and "Manifold" in listed)


def names_the_metric(metric: str, row: Row) -> bool:
    match metric:
        case "" | "all" | "bold":
            return True
        case "std":
            return bool(row["std"])
        case "train_speed":
            return row["metric"].startswith(metric)
    return row["metric"] in metric.split(",")


@pytest.mark.skipif(not SHARED.exists(), reason="the transcripts are not here")
def test_each_doubt_of_the_transcript_is_at_the_rows_that_it_names_and_at_few_others() -> None:
    files = {transcript.split("_")[0]: name for name, (transcript, _) in FILES.items()}
    wanted: Counter[tuple[str, int, str]] = Counter()
    for doubt in read(SHARED / "doubtful_cells.csv"):
        name = files[doubt["table"].split("_")[0]]
        here = [i for i, row in enumerate(ROWS[name]) if names_it(doubt, row)]
        assert here or doubt["kind"] == "missing", doubt
        wanted.update((name, i, doubt["kind"]) for i in here)
    found = Counter(
        (name, i, kind) for name in FILES for i, row in enumerate(ROWS[name]) for kind in kinds(row)
    )
    assert not wanted - found
    beyond = [(name, ROWS[name][i]["name"], kind) for name, i, kind in found - wanted]
    assert sorted(beyond) == [  # of no known base; and what a wrong gain was computed from
        ("kmix", "multi-mix", "name"),
        ("multimix-table4", "AlignMixup", "arithmetic"),
        ("multimix-table4", "Dense MultiMix", "arithmetic"),
    ]


def test_a_doubt_names_its_kind_and_says_why() -> None:
    for rows in ROWS.values():
        for row in rows:
            assert {*kinds(row)} <= KINDS
            assert all(doubt.count(": ") for doubt in row["doubt"].split(" | ") if doubt)


def test_a_row_has_a_cell_of_ours_or_none() -> None:
    for rows in ROWS.values():
        for row in rows:
            assert len({bool(row[key]) for key in OURS}) == 1


@pytest.mark.parametrize("row", MAPPED, ids=lambda row: "-".join(row[key] for key in OURS))
def test_a_cell_of_ours_is_one_of_its_table(row: Row) -> None:
    table = TABLES[row["table"]]
    task, metrics = asked(row["column"])
    assert f"{task}:{metrics[0]}" == row["column"]
    assert Column(row["setting"], task, metrics[0]) in set(table.each_column())
    assert row["method"] in {GAIN, *table.methods}
    assert str(Setting.parse(row["setting"])) == row["setting"]
    if row["method"] != GAIN:
        assert canonical(row["method"], "mixbench.methods", Method) == row["method"]


@pytest.mark.parametrize("name", FILES)
def test_a_cell_of_ours_is_of_the_method_and_the_setting_that_are_published(name: str) -> None:
    for row in ROWS[name]:
        if row["column"]:
            name = "Gain" if row["name"].startswith("Gain (") else row["name"]
            assert row["method"].partition(",")[0] == METHODS[name]
            assert row["setting"] == f"{DATA[row['dataset']]}/{NETS[row['network']]}"


def test_a_metric_is_always_the_same_of_ours() -> None:
    ours = {
        (row["table"], row["dataset"], row["metric"].removesuffix("_gain"), row["column"])
        for row in MAPPED
    }
    assert len({each[:3] for each in ours}) == len(ours) == len({(t, d, c) for t, d, _, c in ours})


def test_the_committed_files_are_read_whole_and_without_complaint() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = {name: reported(table, FOLDER) for name, table in TABLES.items()}
    assert sum(map(len, read.values())) == len(MAPPED)
    assert {name: len(figures) for name, figures in read.items() if figures} == {
        "leaderboard": 57,
        "multimix-table2": 45,
        "multimix-table3": 31,
        "multimix-table4": 80,
        "multimix-table5": 26,
        "multimix-ood": 108,
        "multimix-embedding": 8,
        "multimix-intrusion": 5,
        "multimix-figure4d": 2,
        "kmix-imagenet": 1,
    }


def test_a_figure_is_read_with_its_deviation_source_and_doubts() -> None:
    figure = of("multimix-table2", "cifar100/preactresnet18", "puzzlemix", "accuracy")
    assert (figure.value, figure.std) == (79.98, 0.05)
    assert figure.source == "arXiv:2311.05538 Table 2"
    assert [doubt.partition(":")[0] for doubt in figure.doubts] == [
        "contradiction",
        "plausibility",
        "conversion",
    ]


def test_a_speed_is_in_images_per_second() -> None:
    figure = of("multimix-table3", "imagenet/resnet50", "baseline", "speed")
    assert figure.value == pytest.approx(1170)
    assert figure.std is None


@pytest.mark.parametrize("method", ["baseline", "manifold", "puzzlemix", "comixup"])
def test_rows_of_another_network_on_tinyimagenet_say_so(method: str) -> None:
    figure = of("multimix-table2", "tinyimagenet/preactresnet18", method, "accuracy")
    assert any(doubt.startswith("protocol: ") for doubt in figure.doubts)


def test_either_end_of_a_gain_that_does_not_add_up_says_so() -> None:
    for method in ("alignmixup", "densemultimix"):
        figure = of("multimix-table4", "cifar100/preactresnet18", method, "pgd")
        assert any(doubt.startswith("arithmetic: ") for doubt in figure.doubts)
    (gain,) = (
        row
        for row in ROWS["multimix-table4"]
        if (row["dataset"], row["network"], row["value"]) == ("CIFAR-100", "R-18", "1.4")
    )
    assert kinds(gain)[0] == "arithmetic"


def test_nine_figures_of_isun_are_told_apart_by_order() -> None:
    collapsed = [
        row["method"]
        for row in ROWS["multimix-ood"]
        if row["doubt"].startswith("conversion: nine AUROC of iSUN")
    ]
    assert collapsed == list(TABLES["multimix-ood"].methods[:9])


TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=("digits/small",),
    methods=("baseline", "mixup"),
    columns=("robustness",),
)
PGD = Column("digits/small", "robustness", "pgd")
HEAD = ",".join(COLUMNS)
GOOD = "tiny,Digits,small,Baseline,pgd,40.5,0.5,a paper,digits/small,baseline,robustness:pgd,"


def put(folder: Path, *lines: str) -> Path:
    (folder / "tiny.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_table_has_only_what_was_published_as_it(tmp_path: Path) -> None:
    put(tmp_path, HEAD, GOOD)
    assert reported(TABLE, tmp_path) == {(PGD, "baseline"): Reported(40.5, 0.5, "a paper")}
    assert reported(replace(TABLE, name="other"), tmp_path) == {}


def test_spellings_are_made_canonical(tmp_path: Path) -> None:
    row = (
        GOOD.replace("baseline", '"mixup,alpha=0.20"').replace("rob", '"rob').replace("pgd,\n", "")
    )
    put(tmp_path, HEAD, row.replace("robustness:pgd", 'robustness,steps=20:pgd"'))
    assert list(reported(TABLE, tmp_path)) == [(PGD, "mixup,alpha=0.2")]


def test_a_narrower_table_ignores_what_it_lacks(tmp_path: Path) -> None:
    put(tmp_path, HEAD, GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reported(replace(TABLE, methods=("mixup",), columns=()), tmp_path)


def test_without_a_folder_nothing_is_reported(tmp_path: Path) -> None:
    assert reported(TABLE, tmp_path / "missing") == {}


def test_the_files_are_installed() -> None:
    assert {path.name for path in shipped().glob("*.csv")} == {f"{name}.csv" for name in ROWS}
    table = TABLES["multimix-embedding"]
    assert reported(table) == reported(table, FOLDER) != {}


def test_files_that_are_not_installed_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbench.bench.reported.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="install mixbench again"):
        reported(TABLE)


def test_doubts_are_several_between_bars(tmp_path: Path) -> None:
    put(tmp_path, HEAD, f"{GOOD}std: too small | name: not sure")
    (figure,) = reported(TABLE, tmp_path).values()
    assert figure.doubts == ("std: too small", "name: not sure")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (GOOD.replace("40.5", "high"), "'high' should be a number"),
        (GOOD.replace("40.5", "nan"), "'nan' should be a number"),
        (GOOD.replace("40.5", "1e999"), "'1e999' should be a number"),
        (GOOD.replace("40.5", ""), "'' should be a number"),
        (GOOD.replace("0.5,a", "wide,a"), "'wide' should be a number"),
        (GOOD.replace("baseline", "basline"), "no method 'basline'; did you mean baseline?"),
        (GOOD.replace("robustness:pgd", "robustness:pdg"), "no metric of robustness 'pdg'"),
        (GOOD.replace("robustness:pgd", "robustness"), "should name one metric: fgsm, pgd"),
        (GOOD.replace("robustness:pgd", ""), "no task ''"),
        (GOOD.replace("digits/small", "nowhere/small"), "no dataset 'nowhere'"),
        ("tiny,Digits,small,Base", "as many values as the first line has names"),
        (f"{GOOD},more", "as many values as the first line has names"),
        (GOOD.replace("40.5", "41.5"), "robustness:pgd of baseline was given before"),
    ],
)
def test_a_damaged_row_is_named_and_left_out(tmp_path: Path, line: str, why: str) -> None:
    put(tmp_path, HEAD, GOOD, line)
    with pytest.warns(BadFile) as said:
        figures = reported(TABLE, tmp_path)
    assert figures == {(PGD, "baseline"): Reported(40.5, 0.5, "a paper")}
    (message,) = (str(each.message) for each in said)
    assert message.startswith(f"{tmp_path / 'tiny.csv'}, line 3, is left out: ")
    assert why in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (HEAD.replace(",doubt", "").encode(), "it has no column doubt"),
        (b"", "it has no column table, dataset"),
        (b"\xff\xfe\x00", "it can't be read"),
        (f'{HEAD}\n"tiny'.encode(), "it can't be read"),
    ],
)
def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, content: bytes, why: str) -> None:
    put(tmp_path, HEAD, GOOD)
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.warns(BadFile, match=f"a.csv is treated as missing: {why}"):
        figures = reported(TABLE, tmp_path)
    assert list(figures) == [(PGD, "baseline")]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80)
    | st.text(max_size=80).map(lambda s: f"{HEAD}\ntiny,{s}".encode())
)
def test_no_file_is_fatal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.csv").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BadFile)
        assert reported(TABLE, tmp_path) == {}


def test_what_is_reported_is_no_score(tmp_path: Path) -> None:
    (tmp_path / "reported").mkdir()
    put(tmp_path / "reported", HEAD, GOOD)
    store, cell = Store(tmp_path), Cell(Run("digits/small", "mixup", 0), "robustness")
    store.publish(cell, cell.identity() | {"metrics": {"fgsm": 1.0, "pgd": 2.0}})
    assert reported(TABLE, store.root / "reported")
    scores = TABLE.scores(store)
    assert [*scores.method, *scores.value] == ["mixup", "mixup", 1.0, 2.0]
