"""LaTeX: a table environment, for the packages booktabs and graphicx."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from mixbench.bench.formats._blocks import notes, row_heads, side_by_side, strips
from mixbench.bench.sheets import Entry, Sheet

ESCAPES = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "†": "\\dag{}",
    "−": "$-$",
    "≈": "$\\approx$",
    "α": "$\\alpha$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
FIT = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
"""What is too wide for the page is made smaller."""
MARKS = {0: "", 1: "\\textbf", 2: "\\textit"}


def write(sheet: Sheet) -> str:
    caption, *below = map(_prose, notes(sheet))
    return "\n".join(
        [
            "% \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            "\\centering\\footnotesize",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', sheet.table.name)}}}",
            "\n\\par\\medskip\n".join(_grid(sheet, places) for places in side_by_side(sheet)),
            f"\\par\\medskip {' '.join(below)}",
            "\\end{table}\n",
        ]
    )


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is; letters that its fonts lack are question marks."""
    return "".join(ESCAPES.get(c, c if c.isprintable() and ord(c) < 256 else "?") for c in text)


def _prose(sentence: str) -> str:
    """A sentence, with what stands in backquotes as code."""
    parts = map(escaped, sentence.split("`"))
    return "".join(f"\\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))


def _grid(sheet: Sheet, places: Sequence[int]) -> str:
    heads, columns = zip(*strips(sheet, places, _marked, escaped), strict=True)
    rows = [*map(_row, zip(map(escaped, row_heads(sheet)), *columns, strict=True))]
    if sheet.gains:
        rows.insert(-1, "\\midrule")
    return "\n".join(
        [
            FIT,
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            "\\toprule",
            *_outer_heads(heads),
            _row(["method", *(head[-1] for head in heads)]),
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}}",
        ]
    )


def _outer_heads(heads: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Of each level but the last, the headings over the columns that they have, and rules below."""
    for level in range(len(heads[0]) - 1):
        groups = [(head, len([*some])) for head, some in groupby(head[level] for head in heads)]
        yield _row(["", *(f"\\multicolumn{{{n}}}{{c}}{{{head}}}" for head, n in groups)])
        ends = [1 + sum(n for _, n in groups[: i + 1]) for i in range(len(groups))]
        spans = zip(groups, ends, strict=True)
        yield "".join(f"\\cmidrule(lr){{{end - n + 1}-{end}}}" for (_, n), end in spans)


def _marked(text: str, entry: Entry) -> str:
    mark = MARKS[entry.place]
    text = f"{mark}{{{text}}}" if mark else text
    return f"\\underline{{{text}}}" if entry.champion else text


def _row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
