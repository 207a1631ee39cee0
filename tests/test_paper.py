"""The declarations: that every table and figure of both papers is there, in the papers' shape."""

import re

import pytest

from mixbench.bench.catalogue import inapplicable
from mixbench.bench.paper import KMIX, MULTIMIX, TABLES
from mixbench.bench.settings import SETTINGS, Setting

PUBLISHED = [name for name in TABLES if name.startswith(("multimix-", "kmix-"))]


def heads(name: str) -> list[tuple[str, str]]:
    return [(column.setting, column.metric) for column in TABLES[name].each_column()]


def test_every_table_and_figure_of_both_papers_is_declared() -> None:
    multimix = ["table2", "table3", "table4", "table5", "ood", "embedding", "intrusion", "figure3"]
    panels = ["figure4a", "figure4b", "figure4c", "figure4d", "attention"]
    subjects = ["cifar100", "tinyimagenet", "imagenet", "calibration", "corruption"]
    more = ["k", "variance", "speech", "cub"]
    declared = [f"multimix-{name}" for name in [*multimix, *panels]]
    declared += [f"kmix-{name}" for name in [*subjects, *more]]
    assert declared == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_table_names_its_paper(name: str) -> None:
    paper = "2311.05538" if name.startswith("multimix-") else "2406.01417"
    assert paper in TABLES[name].caption


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_declared_twice(name: str) -> None:
    table = TABLES[name]
    columns = list(table.each_column())
    runs = list(table.runs())
    assert len({*columns}) == len(columns)
    assert len({*runs}) == len(runs) == table.seeds * len(table.settings) * len(table.methods)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_proposed_is_among_the_rows_and_not_all_of_them(name: str) -> None:
    table = TABLES[name]
    assert {*table.ours} < {*table.methods}
    assert table.ours in {(), MULTIMIX, (*MULTIMIX, "densemultimix,at=block12"), KMIX}


@pytest.mark.parametrize("name", TABLES)
def test_a_setting_has_a_recipe_of_its_own(name: str) -> None:
    settings = [Setting.parse(text) for text in TABLES[name].settings]
    assert [str(setting) for setting in settings] == [*TABLES[name].settings]
    assert {setting.name for setting in settings} <= {*SETTINGS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_can_be_trained_in_one_setting_at_least(name: str) -> None:
    refused = {method: TABLES[name].refusal(method) for method in TABLES[name].methods}
    refused = {method: why for method, why in refused.items() if why}
    assert {*refused} <= {"stylemix"}, refused  # which needs weights that are not here
    assert all(why.startswith("there is no vgg_normalised.pth") for why in refused.values())


def test_table_2_has_the_papers_columns() -> None:
    assert heads("multimix-table2") == [
        ("cifar10/preactresnet18", "accuracy"),
        ("cifar10/wrn16-8", "accuracy"),
        ("cifar100/preactresnet18", "accuracy"),
        ("cifar100/wrn16-8", "accuracy"),
        ("tinyimagenet/preactresnet18", "accuracy"),
    ]


def test_table_3_has_the_methods_of_transformers_where_there_is_one() -> None:
    assert heads("multimix-table3") == [
        (setting, metric)
        for setting in ("imagenet/resnet50", "imagenet/vit-small")
        for metric in ("speed", "accuracy")
    ]
    for method in ("transmix", "tokenmix"):
        assert inapplicable("imagenet/resnet50", method)
        assert not inapplicable("imagenet/vit-small", method)


def test_table_4_has_fgsm_five_times_and_pgd_four_times() -> None:
    five = [setting for setting, _ in heads("multimix-table2")]
    assert heads("multimix-table4") == [
        *((setting, "fgsm") for setting in five),
        *((setting, "pgd") for setting in five[:4]),
    ]


def test_the_ood_table_has_three_numbers_of_each_of_three_sets() -> None:
    columns = list(TABLES["multimix-ood"].each_column())
    assert [(column.task, column.metric) for column in columns] == [
        (f"ood,sets={name}", metric)
        for name in ("lsun-crop", "isun", "tinyimagenet-crop")
        for metric in ("auroc", "aupr_in", "aupr_out")
    ]


@pytest.mark.parametrize("name", [f"multimix-figure4{letter}" for letter in "abcd"])
def test_a_panel_has_both_methods_at_the_same_values_and_the_default(name: str) -> None:
    methods = TABLES[name].methods
    changes = [method.partition(",")[::2] for method in methods]
    single = [change for method, change in changes if method == "multimix"]
    assert single == [change for method, change in changes if method == "densemultimix"]
    assert len(single) * 2 == len(methods)
    assert "" in single
    assert len({change.partition("=")[0] for change in single if change}) == 1


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("kmix-")])
def test_interpolations_stand_behind_what_is_interpolated(name: str) -> None:
    table = TABLES[name]
    base = "baseline"
    for method in table.methods:
        if not method.startswith("multiple"):
            base = method
            continue
        found = re.search("base=([a-z]+)", method)
        assert base == (found[1] if found else "mixup")


def test_tables_share_what_was_trained() -> None:
    trained = {*TABLES["multimix-table2"].runs()}
    for name in ("multimix-table4", "multimix-embedding", "multimix-figure3"):
        assert {*TABLES[name].runs()} <= trained


def test_the_figure_of_embeddings_is_drawn_from_the_task_that_its_table_asks() -> None:
    assert TABLES["multimix-figure3"].tasks() == TABLES["multimix-embedding"].tasks()
