"""The page: what it says, and what can't get into it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import BOARD, EMPTY, MADE, TABLES, fill, put, refuse, report, top1

from mixbench.bench import figures
from mixbench.bench.cells import Store
from mixbench.bench.formats.letters import visible
from mixbench.bench.page import write
from mixbench.bench.page._pictures import CAPTIONS, slim
from mixbench.bench.paper import TABLES as PAPER
from mixbench.bench.sheets import sheet
from mixbench.bench.spec import BadInput

HERE = Path(__file__).resolve().parents[1]
VOID = {"meta", "link", "input", "path", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    def walk(self) -> Iterator["Element"]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        return [
            e
            for e in self.walk()
            if e.tag == tag
            and all(e.attributes.get(k.strip("_")) == v for k, v in attributes.items())
        ]

    @property
    def text(self) -> str:
        parts = (c.text if isinstance(c, Element) else c for c in self.children)
        return " ".join("".join(parts).split())

    @property
    def seen(self) -> str:
        """Without what only screen readers say."""
        parts = (
            ("" if c.attributes.get("class") == "heard" else c.seen)
            if isinstance(c, Element)
            else c
            for c in self.children
        )
        return " ".join("".join(parts).split())


class Tree(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], f"never closed: {[e.tag for e in self.open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def no_figure(name: str, *_: object) -> str:
    raise BadInput(f"nothing to draw of {name}; `mixbench run board` makes cells")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "svg", no_figure)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fill(Store(tmp_path / "results"))


def page(store: Store, out: Path, tables: Any = TABLES) -> Element:
    return Tree(write(store, out, tables, store.root / "reported").read_text("utf-8")).root


def data_of(root: Element) -> Any:
    (script,) = root.all("script", id="data")
    text = str(script.children[0])
    assert not {*"<>&"} & {*text}, "nothing in it can end the element"
    return json.loads(text)


def board_of(root: Element) -> Element:
    return next(e for e in root.walk() if e.attributes.get("class") == "board")


def rows_of(root: Element) -> dict[str, list[Element]]:
    """The cells of the first table, by method."""
    body = board_of(root).all("tbody")[0]
    return {row.all("th")[0].attributes["data-name"]: row.all("td") for row in body.all("tr")}


@pytest.mark.usefixtures("undrawn")
def test_every_number_of_the_sheet_is_there(store: Store, tmp_path: Path) -> None:
    said = sheet(BOARD, store)
    rows = rows_of(page(store, tmp_path))
    assert [*rows] == [*BOARD.methods]
    for method, entries in said.entries.items():
        for column, entry, cell in zip(said.columns, entries, rows[method], strict=True):
            text = entry.text(column.rule, BOARD.seeds).replace("-", "–")
            assert cell.seen.partition("paper")[0] == text
            shown = cell.attributes.get("data-value")
            assert (None if shown is None else float(shown)) == entry.mean
    assert rows["mixup"][2].seen == "1.25 (1)"
    gains = board_of(page(store, tmp_path)).all("tfoot")[0].all("td")
    assert [gain.text for gain in gains][:3] == ["+0.00", "+1.50", ""]


@pytest.mark.usefixtures("undrawn")
def test_marks_are_said_to_those_who_can_t_see_them(store: Store, tmp_path: Path) -> None:
    rows = rows_of(page(store, tmp_path))
    pgd = {method: cells[1] for method, cells in rows.items()}
    assert pgd["multimix"].attributes["class"] == "best"
    assert pgd["multimix"].text == "8.12 ± 0.12, best"
    assert pgd["mixup"].attributes["class"] == "second champion"
    assert pgd["mixup"].text == "9.62 ± 0.12, second, best baseline"
    assert pgd["manifold"].text == "–missing"
    assert pgd["transmix"].text.startswith("n/a: it needs the class token's attention")


@pytest.mark.usefixtures("undrawn")
def test_a_number_tells_where_it_comes_from(store: Store, tmp_path: Path) -> None:
    root = page(store, tmp_path)
    data, cell = data_of(root), rows_of(root)["cutmix"][0]
    entry = data["entries"][int(cell.all("button")[0].attributes["data-entry"])]
    assert (entry["method"], entry["title"]) == ("cutmix", "FGSM error, %")
    assert [value for _, value in entry["cells"]] == [None, 41.0, 42.0]
    behind = data["cells"][entry["cells"][1][0]]
    assert behind["file"] == "digits/small/cutmix/1/robustness.json"
    assert (store.root / behind["file"]).is_file()
    assert (behind["seed"], behind["training"], behind["time"]) == (1, 1.25, MADE["time"])
    assert data["made"][behind["made"]] == {
        key: MADE[key] for key in ("device", "torch", "commit", "command")
    }
    assert data["parameters"][behind["parameters"]["method"]]["alpha"] == "1"
    assert data["parameters"][behind["parameters"]["setting"]]["recipe.epochs"] == "15"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("seconds", [None, "x", [1], float("nan")])
def test_seconds_that_are_no_number_are_left_out(seconds: object, tmp_path: Path) -> None:
    made = {"task": {"seconds": seconds, "time": 7}}
    put(store := Store(tmp_path), "mixup", 0, "classification", top1(1.25), made)
    root = page(store, tmp_path / "out")
    assert rows_of(root)["mixup"][2].seen == "1.25 (1)"
    (cell,) = data_of(root)["cells"]
    assert (cell["training"], cell["seconds"], cell["time"]) == (None, None, "7")


@pytest.mark.usefixtures("undrawn")
def test_what_is_reported_stands_beside_and_is_doubted(store: Store, tmp_path: Path) -> None:
    root = page(store, tmp_path)
    cell = rows_of(root)["baseline"][2]
    (reported,) = [e for e in cell.all("span") if "reported" in e.attributes.get("class", "")]
    assert reported.attributes["class"] == "reported doubtful"
    assert reported.text == "paper 1.25 ± 0.50 (Δ +0.25) ?, doubtful: std: a digit may be lost"
    assert cell.attributes["data-value"] == "1.5"
    assert "Reported by arXiv 0000.00000" in board_of(root).text
    entry = data_of(root)["entries"][int(cell.all("button")[0].attributes["data-entry"])]
    assert ["source", "arXiv 0000.00000"] in entry["reported"]


@pytest.mark.usefixtures("undrawn")
def test_a_table_without_cells_says_what_fills_it(store: Store, tmp_path: Path) -> None:
    (todo,) = page(store, tmp_path).all("details", class_="todo")
    assert "mixbench run empty fills it" in todo.text
    assert [cell.text for cell in todo.all("td")] == ["7.75"]
    assert "arXiv 0000.00000" in todo.text


@pytest.mark.usefixtures("undrawn")
def test_an_empty_store_gives_a_page(tmp_path: Path) -> None:
    root = page(Store(tmp_path / "none"), tmp_path / "out")
    assert "There are no cells yet" in root.text
    assert len(root.all("details", class_="todo")) == 2
    assert data_of(root)["cells"] == []


@pytest.mark.usefixtures("undrawn")
def test_a_card_tells_what_a_method_is_and_where_it_wins(store: Store, tmp_path: Path) -> None:
    root = page(store, tmp_path)
    (card,) = root.all("article", id="method-mixup")
    assert "x̂ = λx + (1 − λ)x′" in card.text
    assert "alpha=1" in card.text and "version" not in card.text
    assert card.all("a")[0].attributes["href"] == "https://arxiv.org/abs/1710.09412"
    assert "1.60 × training images/s, 1.00 × peak memory of the baseline (board)" in card.text
    assert (
        "BestFGSM error, %; top-1 error, %; training images/s; peak memory, MiB (board)"
        in card.text
    )
    assert "Levelin 5 of 5 columns (board)" in card.text


@pytest.mark.usefixtures("undrawn")
def test_a_figure_that_can_t_be_drawn_says_why(store: Store, tmp_path: Path) -> None:
    folded = board_of(page(store, tmp_path)).all("details", class_="notes")[0]
    assert folded.all("summary")[0].text == f"{len(CAPTIONS)} figures were not drawn"
    assert "ranks: nothing to draw of ranks; mixbench run board makes cells" in folded.text


def test_all_figures_have_a_caption() -> None:
    assert {*CAPTIONS} == {*figures.FIGURES}


def test_a_picture_too_many_is_named_with_the_command(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "svg", lambda *_: f"<svg>{'x' * 500_000}</svg>")
    board = board_of(page(store, tmp_path))
    assert len(board.all("figure")) == 2
    assert f"mixbench figure {[*CAPTIONS][2]} board draws it" in board.text


def test_slim_paths_are_the_same_to_a_hundredth() -> None:
    long = '<svg>\n <g transform="scale(0.0156)">\n  <path d="M 1.23456 -7.891 L 10 0.5"/>\n </g></svg>'
    assert slim(long) == (
        '<svg><g transform="scale(0.0156)"><path d="M 1.23 -7.89 L 10 0.5"/></g></svg>'
    )


HOSTILE = (
    "<script>alert(1)</script>",
    '"onmouseover="alert(1)',
    "</script><img src=x onerror=alert(1)>",
    "$(rm -rf ~)",
    "<!--",
    "]]>",
    "{{ 7 * 7 }}",
    "a\u202eb",
    "`</code>`",
)


def harmless(root: Element) -> None:
    """That nothing on the page is there which is not in every page."""
    assert [e.attributes.get("type") for e in root.all("script")] == ["application/json", None]
    tags = {e.tag for e in root.walk()}
    assert not tags & {"img", "iframe", "object", "embed", "base", "form"}
    for element in root.walk():
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_texts(text: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    table = replace(BOARD, name=text, caption=text)
    made = {"training": MADE, "task": dict.fromkeys(MADE, text)}
    put(store, "mixup", 0, "classification", top1(1.0), made)
    refuse(store, "mixup", "robustness", text)
    report(store, text, "mixup", "1.0", source=text, doubt=text)
    root = page(store, tmp_path / "out", {text: table, "empty": replace(EMPTY, caption=text)})
    harmless(root)
    shown = " ".join(visible(text).split())
    assert root.all("h2")[0].text == shown
    assert f"n/a: {shown}".replace("`", "'") in rows_of(root)["mixup"][0].text
    assert data_of(root)["made"][-1]["device"] == f"{MADE['device']}, then {visible(text)}"


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "text", ["<script>alert(1)<script>", '"onclick="alert(1)', "a\u202eb", "'&amp;"]
)
def test_hostile_methods_are_only_names(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab := tmp_path / f"lab{abs(hash(text))}").mkdir()
    (lab / f"{text}.py").write_text(
        "from pydantic.dataclasses import dataclass\nfrom mixbench.methods import Method\n\n"
        f"@dataclass(frozen=True)\nclass Mine(Method):\n    {text!r}\n    formula = {text!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    method = f"{lab.name}.{text}"
    put(store := Store(tmp_path / "results"), method, 0, "classification", top1(1.0))
    root = page(store, tmp_path / "out", {"board": BOARD.add(method)})
    harmless(root)
    assert rows_of(root)[visible(method)][2].seen == "1.00 (1)"
    card = root.all("article")[-1]
    assert card.all("h3")[0].text == visible(method)
    assert card.all("p", class_="formula")[0].text == visible(text)


@given(st.text())
def test_visible_texts_have_no_letters_that_don_t_print(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in visible(text))
    assert visible(visible(text)) == visible(text)
    if text.isprintable():
        assert visible(text) == text


@pytest.mark.usefixtures("undrawn")
def test_the_policy_allows_nothing_but_the_page_itself(store: Store, tmp_path: Path) -> None:
    root = page(store, tmp_path)
    (policy,) = [e for e in root.all("meta") if "http-equiv" in e.attributes]
    rules = policy.attributes["content"]
    assert rules.startswith("default-src 'none'; ") and "unsafe" not in rules
    assert rules.count("'sha256-") == 2
    for element in root.walk():
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in element.attributes
        if element.tag != "a":
            assert not re.match("(https?:)?//", element.attributes.get("href", ""))
    style = str(root.all("style")[0].children[0])
    assert "@import" not in style and "url(" not in style and "http" not in style


@pytest.mark.usefixtures("undrawn")
def test_every_button_has_a_name_and_every_table_a_caption(store: Store, tmp_path: Path) -> None:
    root = page(store, tmp_path)
    assert all(button.text for button in root.all("button"))
    tables = root.all("table")
    assert len(tables) == 2 and all(table.all("caption")[0].text for table in tables)
    assert {th.attributes["scope"] for th in root.all("th")} == {"col", "colgroup", "row"}
    ids = [e.attributes["id"] for e in root.walk() if "id" in e.attributes]
    assert len(ids) == len({*ids})
    targets = [a.attributes["href"][1:] for a in root.all("a") if a.attributes["href"][0] == "#"]
    assert {*targets} <= {*ids}


DRAWS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from mixbench.bench.cells import Store
from mixbench.bench.page import write
from pages import TABLES
root = Path(sys.argv[1])
write(Store(root), Path(sys.argv[2]), TABLES, root / "reported")
sys.exit("torch" in sys.modules)
"""


def test_the_same_cells_give_the_same_page_and_need_no_torch(store: Store, tmp_path: Path) -> None:
    found = set()
    for seed in ("1", "2", "2"):  # what methods are is asked once, with torch
        env = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", DRAWS, str(store.root), str(tmp_path / seed)]
        done = subprocess.run(command, cwd=HERE, env=env, check=False)
        found.add((tmp_path / seed / "index.html").read_bytes())
    assert done.returncode == 0
    assert len(found) == 1
    assert found.pop().count(b"<figure>") >= 3


def test_a_page_that_can_t_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file/index\.html can't be written: "):
        write(Store(tmp_path / "none"), tmp_path / "file", {})


@pytest.mark.filterwarnings("ignore")
def test_all_tables_of_the_committed_cells_are_below_two_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # which takes long to load
    path = write(Store(HERE / "results"), tmp_path, PAPER)
    root = Tree(path.read_text("utf-8")).root
    assert path.stat().st_size < 2_000_000
    assert len(root.all("section", class_="board")) >= 3
    assert len(root.all("figure")) >= 8
    harmless(Tree(re.sub("<svg.*?</svg>", "", path.read_text("utf-8"))).root)
