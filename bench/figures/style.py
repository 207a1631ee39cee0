"""What all figures look like, and what they are put together from."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mixbench.bench.spec import names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

WIDTH, SIDE = 9.6, 3.2
"""Inches: of a figure, in which a README leaves text readable, and at most of a panel."""
ROW = 6
"""The most panels side by side."""
LONGEST = 40
"""The letters of a label."""
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 10,
    "figure.dpi": 200,  # of what is drawn as pixels
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.handlelength": 4,  # a whole one of VARIANTS
    "svg.hashsalt": "mixbench",  # names in the file would be random
    "text.parse_math": False,  # a spelling may have dollars
}

INK, GREY, PALE = "#222222", "#888888", "#dddddd"
BLUE, ROSE, SKY = "#332288", "#cc6677", "#88ccee"
COLOURS = [INK, BLUE, ROSE, "#117733", SKY, "#882255", "#999933", "#aa4499", "#44aa99", "#ddcc77"]
"""Black, and the muted scheme of Paul Tol (SRON/EPS/TN/09-002), which the colour-blind tell apart."""
LINES = ("-", (0, (1, 1)), (0, (5, 1, 1, 1)))
ELSEWHERE = (0, (5, 1))
"""The line of methods that are kept outside the repository."""
VARIANTS = [
    (0, (dash, gap, *(1, gap) * dots)) for dash in (3, 6, 9) for gap in (1, 2) for dots in range(4)
]
"""The lines of methods with other parameters."""
TINTS = (0.0, 0.25, 0.5)
"""How near to white their colours are."""
DIGITS = 4
"""Of the place of a panel, as a share of the figure."""


def looks(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line for each method, by its spelling alone, so that all figures agree.

    A variant has the colour of its method, in a tint, and a line of its own.
    """
    methods = [*methods]
    own = dict.fromkeys(["baseline", *names("mixbench.methods")])
    found = {method: _look(i) for i, method in enumerate(own)}
    found |= {name: _outsider(name) for name in map(root, methods) if name not in own}
    colours = {name: look["color"] for name, look in found.items()}
    variants = [method for method in methods if method not in found]
    return found | {method: _variant(colours[root(method)], method) for method in variants}


def root(spelling: str) -> str:
    """The name in it."""
    return spelling.partition(",")[0]


def _look(i: int) -> dict[str, Any]:
    line = LINES[i // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": line}


def _outsider(name: str) -> dict[str, Any]:
    return {"color": COLOURS[_number(name) % len(COLOURS)], "linestyle": ELSEWHERE}


def _variant(colour: str, spelling: str) -> dict[str, Any]:
    tint, line = divmod(_number(spelling) % (len(TINTS) * len(VARIANTS)), len(VARIANTS))
    return {"color": _lighter(colour, TINTS[tint]), "linestyle": VARIANTS[line]}


def _number(spelling: str) -> int:
    """The same for a spelling in every process."""
    return int.from_bytes(sha256(spelling.encode()).digest())


def _lighter(colour: str, share: float) -> str:
    """A colour, #rrggbb, with a share of white."""
    return "#" + bytes(round(c + (255 - c) * share) for c in bytes.fromhex(colour[1:])).hex()


def shortened(text: str, most: int = LONGEST) -> str:
    """A label on one line: the middle of a long one is left out, as is what can't be printed."""
    plain = "".join(letter if letter.isprintable() else "�" for letter in text)
    half = (most - 1) // 2
    return plain if len(plain) <= most else f"{plain[:half]}…{plain[-half:]}"


def panels(
    figure: "Figure",
    titles: Sequence[str],
    x: str = "",
    y: str = "",
    row: int = ROW,
    **kind: Any,
) -> list["Axes"]:
    """Square panels side by side, in as many rows as it takes; x and y are labelled at the edge."""
    rows, columns, side = _shape(len(titles), row)
    figure.set_size_inches(max(columns * side, WIDTH / 2), rows * (side + 0.2) + 0.8)
    every = list(figure.subplots(rows, columns, squeeze=False, **kind).flat)
    shown, spare = every[: len(titles)], every[len(titles) :]
    for panel, title in zip(shown, titles, strict=True):
        panel.set_title(title)
    for panel in shown[-columns:]:
        panel.set_xlabel(x)
        panel.tick_params(labelbottom=True)
    for panel in shown[::columns]:
        panel.set_ylabel(y)
    for panel in spare:
        panel.remove()
    return shown


def stacks(figure: "Figure", titles: Sequence[str], heights: Sequence[float]) -> list[Array]:
    """Columns of panels of these heights, for a width of 1; as many side by side as there is room."""
    rows, columns, side = _shape(len(titles), ROW)
    height = rows * (side * sum(heights) + 0.3) + 0.5
    figure.set_size_inches(max(columns * side, WIDTH / 2), height)
    ratios = [*heights] * rows
    every = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    found = [stack for block in np.split(every, rows) for stack in block.T]
    for panel in every.flat:
        panel.axis("off")
    for i, (stack, title) in enumerate(zip(found, titles, strict=False)):
        stack[0].set_title(title if i < columns else f"\n{title}")
    return found[: len(titles)]


def _shape(n: int, row: int) -> tuple[int, int, float]:
    """Of n panels, at most ``row`` side by side: rows, columns, inches per column."""
    rows = ceil(n / row)
    columns = ceil(n / rows)
    return rows, columns, min(WIDTH / columns, SIDE)


def settle(figure: "Figure") -> None:
    """Lay a figure out for good, and round where its panels stand.

    The layout's last digits depend on where things lie in memory.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel in figure.axes:
        panel.set_position(np.round(panel.get_position(original=True).bounds, DIGITS).tolist())


def legend(figure: "Figure", shown: Sequence["Axes"], **kind: Any) -> None:
    """What is in any of the panels, once; below them, or where it is said."""
    handles = {
        label: handle
        for panel in shown
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    labels = [shortened(label) for label in handles]
    inches = 0.6 + 0.075 * max(map(len, labels))
    below: dict[str, Any] = {"loc": "outside lower center"}
    below["ncols"] = max(1, int(figure.get_figwidth() / inches))
    figure.legend(handles.values(), labels, **(below | kind))


def beside(figure: "Figure", shown: Sequence["Axes"]) -> None:
    """The legend at the right of the panels, in a figure of full width."""
    figure.set_figwidth(WIDTH)
    legend(figure, shown, loc="outside right center", ncols=1)
