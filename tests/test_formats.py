"""The formats of tables: the same bytes for the same cells, and nothing that could be taken for code."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixbench.bench.cells import Cell, Run, Store
from mixbench.bench.cli.showing import FORMATS as OFFERED
from mixbench.bench.formats import FORMATS, SUFFIXES, printed
from mixbench.bench.formats._csv import FORMULA, lines
from mixbench.bench.formats.latex import escaped
from mixbench.bench.paper import TABLES
from mixbench.bench.reported import GAIN, Reported
from mixbench.bench.sheets import Published
from mixbench.bench.tables import Column, Table

SMALL, VIT = "digits/small", "digits/smallvit"
TABLE = Table(
    name="tiny",
    caption="A caption.",
    settings=(SMALL, VIT),
    methods=("baseline", "mixup", "multimix"),
    columns=("classification:accuracy", "robustness:pgd"),
    seeds=2,
    ours=("multimix",),
    without=((VIT, "robustness:pgd"),),
)
ACCURACY = Column(SMALL, "classification", "accuracy")
PUBLISHED: Published = {
    (ACCURACY, "mixup"): Reported(97.5, 0.1, "a paper, Table 2", ("contradiction: 5 % & more",)),
    (ACCURACY, "multimix"): Reported(98.0, None, "a paper, Table 2"),
}
HOSTILE = '<script>alert(1)</script> & "x" | \\input{y} $z$ % # _ ^ ~ {'


def put(store: Store, setting: str, method: str, seed: int, task: str, **numbers: float) -> None:
    cell = Cell(Run(setting, method, seed), task)
    store.publish(cell, cell.identity() | {"metrics": numbers})


def error(value: float) -> Mapping[str, float]:
    names = ("top1", "top1_best", "top1_median", "top5", "top5_best", "top5_median")
    return dict.fromkeys(names, 0.0) | {"top1": value}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for seed, spread in enumerate((-1.0, 1.0)):
        for method, top1, pgd in (("baseline", 5.0, 60.0), ("mixup", 3.0, 50.0)):
            put(store, SMALL, method, seed, "classification", **error(top1 + spread))
            put(store, SMALL, method, seed, "robustness", fgsm=9.0, pgd=pgd + spread)
    put(store, SMALL, "multimix", 0, "classification", **error(2.5))
    put(store, VIT, "baseline", 1, "classification", **error(10.0))
    return store


def test_markdown_has_the_gain_the_best_baseline_and_what_was_reported(store: Store) -> None:
    grid, notes = printed(TABLE, store, "markdown", PUBLISHED).split("\n\n")
    title, pgd = "top-1 accuracy, %", "<ins>**50.00 ± 1.41**</ins>"
    head = f"digits/small: {title}"
    assert re.sub(" +", " ", grid).splitlines() == [
        f"| method | {head} | {head}, reported | digits/small: PGD error, % | digits/smallvit: {title} |",
        re.search(r"\| -+ \| -+: .*", grid)[0],  # type: ignore[index]
        "| baseline | 95.00 ± 1.41 | - | *60.00 ± 1.41* | <ins>**90.00 (1)**</ins> |",
        f"| mixup | <ins>*97.00 ± 1.41*</ins> | 97.50 ± 0.10† (-0.50) | {pgd} | - |",
        "| multimix | **97.50 (1)** | 98.00 (-0.50) | - | - |",
        "| gain | +0.50 | | - | - |",
    ]
    assert notes.startswith("A caption. Setting: `digits/small`, `digits/smallvit`. Mean ± ")
    assert "gain is by how much the best of `multimix` is better." in notes
    assert notes.endswith(
        "Reported: by a paper, Table 2; in brackets, measured minus reported. What is reported "
        "enters no mean, no best and no gain. † `mixup` (digits/small: top-1 accuracy, %): "
        "contradiction: 5 % &amp; more.\n"
    )


def test_the_gain_is_positive_where_lower_is_better_and_ours_is_lower(store: Store) -> None:
    put(store, SMALL, "multimix", 0, "robustness", fgsm=9.0, pgd=40.0)
    last = printed(TABLE, store).splitlines()[5]
    assert last.split("|")[3].strip() == "+10.00"


def test_the_outer_heading_may_be_the_metric(store: Store) -> None:
    text = printed(replace(TABLE, order="column"), store, "latex")
    assert (
        " & \\multicolumn{2}{c}{top-1 accuracy, \\%} & \\multicolumn{1}{c}{PGD error, \\%}" in text
    )
    assert "\\cmidrule(lr){2-3}\\cmidrule(lr){4-4}" in text
    assert "method & digits/small & digits/smallvit & digits/small \\\\" in text


def test_what_does_not_stand_together_is_neither_printed_nor_run(store: Store) -> None:
    assert "smallvit: PGD" not in printed(TABLE, store)
    tasks = {run.setting: missing for run, missing in TABLE.todo(Store(Path("nowhere")))}
    assert tasks == {SMALL: ["classification", "robustness"], VIT: ["classification"]}


def test_long_csv_is_every_number(store: Store) -> None:
    rows = pd.read_csv(StringIO(printed(TABLE, store, "csv")))
    assert rows.equals(TABLE.scores(store))
    of_mixup = rows[(rows.method == "mixup") & (rows.seed == 1)].set_index("metric").value
    assert (of_mixup.top1, of_mixup.accuracy, of_mixup.pgd) == (4.0, 96.0, 51.0)


def test_wide_csv_has_a_row_for_each_method(store: Store) -> None:
    rows = pd.read_csv(StringIO(printed(TABLE, store, "wide", PUBLISHED)), index_col="method")
    assert [*rows.index] == ["baseline", "mixup", "multimix", "gain"]
    assert rows.shape == (4, 3 * 3 + 1)
    head = "digits/small classification:accuracy"
    mixup = [rows.loc["mixup", f"{head} {part}"] for part in ("mean", "std", "n", "reported")]
    assert mixup == [97.0, pytest.approx(2**0.5), 2, 97.5]
    assert rows.loc["gain", f"{head} mean"] == 0.5
    assert rows.loc["multimix", "digits/small robustness:pgd n"] == 0
    assert rows.isna().loc["multimix", "digits/small robustness:pgd mean"]


def rows_of(tabular: str) -> list[str]:
    return [line for line in tabular.splitlines() if line.endswith("\\\\")]


def balance(text: str) -> int:
    """How many braces are open at the end; what is escaped is no brace."""
    bare = re.sub(r"\\[\\{}%]", "", text)
    return bare.count("{") - bare.count("}")


def test_latex_has_as_many_cells_in_each_row_as_its_tabular_says(store: Store) -> None:
    text = printed(TABLE, store, "latex", PUBLISHED)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(l[r]+)\}", text)
    for row in rows_of(text):
        spans = map(int, re.findall(r"\\multicolumn\{(\d+)\}", row))
        bare = row.replace("\\&", "")
        assert bare.count("&") + 1 + sum(n - 1 for n in spans) == len(columns) == 5
    assert balance(text) == 0
    assert "\\underline{\\textit{97.00 $\\pm$ 1.41}}" in text
    assert "97.50 $\\pm$ 0.10\\dag{} (-0.50)" in text
    assert "5 \\% \\& more" in text
    assert "\\texttt{digits/smallvit}" in text


@pytest.mark.parametrize("published", [None, PUBLISHED])
def test_latex_compiles(store: Store, tmp_path: Path, published: Published | None) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex: apt-get install texlive-latex-recommended")
    table = replace(TABLE, caption=HOSTILE, name=HOSTILE)
    body = printed(table, store, "latex", published)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"{body}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@given(st.text())
def test_no_text_is_a_command_of_latex(text: str) -> None:
    bare = escaped(text)
    known = r"\\textbackslash\{\}|\\text\w+\{\}|\\dag\{\}|\$\\?[-\w]+\$|\\[&%$#_{}]"
    assert not re.search(r"[\\{}$&#%_^~]", re.sub(known, "", bare))


class Seen(HTMLParser):
    """The tags of a document, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_has_the_numbers_in_rows_and_columns_with_headings(store: Store) -> None:
    text = printed(TABLE, store, "html", PUBLISHED)
    seen = Seen(text)
    assert seen.tags.count("tr") == 2 + 3 + 1
    assert seen.tags.count("td") == 1 + 4 * 4
    assert '<th colspan="3" scope="colgroup">digits/small</th>' in text
    assert "<td><u><em>97.00 ± 1.41</em></u></td><td>97.50 ± 0.10† (-0.50)</td>" in text
    assert '<tbody class="gain">\n<tr><th scope="row">gain</th><td>+0.50</td>' in text
    assert "<code>multimix</code> is better. Networks are" in text


def hostile_name(store: Store) -> str:
    return printed(replace(TABLE, name=HOSTILE), store, "html")


def hostile_caption(store: Store) -> str:
    return printed(replace(TABLE, caption=HOSTILE), store, "html")


def hostile_source(store: Store) -> str:
    published = {(ACCURACY, "mixup"): Reported(1.0, None, HOSTILE)}
    return printed(TABLE, store, "html", published)


def hostile_doubt(store: Store) -> str:
    published = {(ACCURACY, "mixup"): Reported(1.0, None, "a paper", (HOSTILE,))}
    return printed(TABLE, store, "html", published)


def hostile_reason(store: Store) -> str:
    cell = Cell(Run(SMALL, "mixup", 0), "robustness")
    store.publish(cell, cell.identity() | {"inapplicable": HOSTILE})
    return printed(TABLE, store, "html")


@pytest.mark.parametrize(
    "write", [hostile_name, hostile_caption, hostile_source, hostile_doubt, hostile_reason]
)
def test_html_has_no_tag_of_a_table_or_a_record(
    store: Store, write: Callable[[Store], str]
) -> None:
    expected = Seen(printed(TABLE, store, "html"))
    seen = Seen(write(store))
    assert {*seen.tags} == {*expected.tags}
    assert "<script>alert(1)</script>" in "".join(seen.texts)


def test_a_bar_does_not_end_a_cell_of_markdown(store: Store) -> None:
    published = {(ACCURACY, "mixup"): Reported(1.0, None, "s")}
    table = replace(
        TABLE, methods=("mixup",), settings=(SMALL,), columns=("classification:accuracy",)
    )
    rows = printed(table, store, "markdown", published).splitlines()[:3]
    assert {row.count("|") for row in rows} == {4}


@pytest.mark.parametrize("start", [*FORMULA, "\t=", "\r=", " \n@"])
def test_no_text_of_a_csv_is_a_formula(start: str) -> None:
    text = lines([[f"{start}1+1", -1.5, None, "plain"]])
    (row,) = csv.reader(StringIO(text, newline=""))
    assert row == [f"'{start.strip()}1+1", "-1.5", "", "plain"]


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_table_can_be_written(form: str, tmp_path: Path) -> None:
    assert "mixup" in printed(TABLE, Store(tmp_path), form) or form == "csv"


def test_the_same_cells_give_the_same_file_in_every_process(store: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from mixbench.bench.cells import Store; "
        "from mixbench.bench.formats import FORMATS, printed; "
        "from mixbench.bench.paper import TABLES; from mixbench.bench.tables import Table; "
        f"table = {TABLE!r}; store = Store(Path(sys.argv[1])); "
        "print(*(printed(table, store, form) for form in FORMATS), end='')"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script, str(store.root)],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "HOME": str(store.root)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_the_command_line_offers_all_formats() -> None:
    assert [*FORMATS] == [*SUFFIXES] == [*OFFERED]
    assert len({*SUFFIXES.values()}) == len(SUFFIXES)


def test_what_cannot_be_told_apart_from_the_best_is_marked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    table = replace(TABLE, settings=(SMALL,), columns=("classification:top1",), seeds=3)
    for seed, noise in enumerate((-0.4, 0.0, 0.4)):
        put(store, SMALL, "baseline", seed, "classification", **error(9.0 + 1.01 * noise))
        put(store, SMALL, "mixup", seed, "classification", **error(4.0 + noise))
        put(store, SMALL, "multimix", seed, "classification", **error(4.1 - noise))
    plain, marked = printed(table, store), printed(table, store, grouped=True)
    assert "≈" not in plain
    marks = ["≈" in line for line in marked.splitlines()[2:5]]
    assert marks == [False, False, True]
    assert "≈: can't be told apart from the best, by paired t-tests" in marked
    assert "4.10 $\\pm$ 0.40} $\\approx$ \\\\" in printed(table, store, "latex", grouped=True)
    assert "</em> ≈</td>" in printed(table, store, "html", grouped=True)


def test_a_gain_that_was_reported_stands_in_its_row(store: Store) -> None:
    gain = Reported(1.4, None, "a paper, Table 2", ("arithmetic: it is 1.8",))
    text = printed(TABLE, store, "markdown", {**PUBLISHED, (ACCURACY, GAIN): gain})
    (row,) = [line for line in text.splitlines() if line.startswith("| gain ")]
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["+0.50", "+1.40†"]
    assert "† `gain` (digits/small: top-1 accuracy, %): arithmetic: it is 1.8." in text


def test_what_is_doubted_of_all_is_said_once_and_has_no_dagger(store: Store) -> None:
    odd = "std: too small"
    published = {place: replace(f, doubts=(*f.doubts, odd)) for place, f in PUBLISHED.items()}
    text = printed(TABLE, store, "markdown", published)
    assert text.count("†") == 2
    assert f"Of all that is reported here: {odd}." in text


def test_no_difference_is_printed_with_a_sign_of_zero(store: Store) -> None:
    put(store, SMALL, "multimix", 0, "classification", **error(3.001))
    gain = printed(replace(TABLE, settings=(SMALL,)), store).splitlines()[5]
    assert gain.split("|")[2].strip() == "+0.00"


def test_a_reason_from_a_record_is_only_text_in_markdown(store: Store) -> None:
    cell = Cell(Run(SMALL, "mixup", 0), "robustness")
    why = "<b> & ![x](http://a)\n\n# h `code` \x1b[31m *x*"
    store.publish(cell, cell.identity() | {"inapplicable": why})
    notes = printed(TABLE, store).splitlines()[-1]
    assert "&lt;b> &amp; !\\[x\\](http://a) # h 'code' ⟨U+001B⟩\\[31m \\*x\\*." in notes
    assert "\x1b" not in printed(TABLE, store, "html")


def test_a_letter_that_turns_the_direction_is_spelled_out_in_csv() -> None:
    assert lines([["a\u202eb\x1b"]]) == "a⟨U+202E⟩b⟨U+001B⟩\n"


def test_a_table_is_written_in_any_locale(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mixbench.bench.cli import main; main()", "table"]
    arguments = ["quickstart-vit", "--results", str(store.root)]
    env = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX", "HOME": str(tmp_path)}
    for form in FORMATS:
        out = tmp_path / form
        more = ["--format", form, "--out", str(out)]
        subprocess.run([*command, *arguments, *more], env=env, check=True)
        assert out.read_bytes().decode("utf-8") == printed(TABLES["quickstart-vit"], store, form)
    subprocess.run([*command, *arguments], env=env, check=True, capture_output=True)
