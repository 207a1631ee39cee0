"""The leaderboard: all tables and what stands behind each number, as one HTML file.

The file asks no network for anything. Scripts and styles that are not its own are refused by its
policy, and whatever comes from a record or a spelling is escaped.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from mixbench.bench.cells import Store, written_aside
from mixbench.bench.formats.letters import visible
from mixbench.bench.page._view import Page, page
from mixbench.bench.spec import BadInput
from mixbench.bench.tables import Table


def write(
    store: Store, out: Path, tables: Mapping[str, Table], published: Path | None = None
) -> Path:
    """Write ``out``/index.html, the same for the same cells. Raises BadInput if it can't be.

    published: the folder of what papers report, if it is not the one that is installed.
    """
    text = render(page(store, tables, published))
    path = out / "index.html"
    try:
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror}") from None
    return path


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style, script = _part("page.css"), _part("page.js")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(_part("page.html.j2")).render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        data=Markup(_embedded(page.data)),
        policy=_policy(style, script),
    )


def _finalized(value: Any) -> Any:
    return visible(value) if type(value) is str else value


def _part(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """Data as JSON that can't end the element that it stands in."""
    text = visible(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(style: str, script: str) -> str:
    """Nothing but the page's own style and script, by their hashes, and pictures within it."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
