"""What becomes of the SVG that matplotlib writes."""

import re
from base64 import b64decode, b64encode
from html import escape
from io import BytesIO

from PIL import Image

EVERYWHERE = 'stroke-linejoin="round" stroke-linecap="butt"'
"""What matplotlib says of all elements, in a style sheet."""


def with_jpegs(svg: str) -> str:
    """An SVG whose pictures, which matplotlib writes as PNG, take a tenth, and are smooth."""

    def smaller(png: re.Match[str]) -> str:
        with Image.open(BytesIO(b64decode(png[1]))) as image:
            image.convert("RGB").save(jpeg := BytesIO(), "jpeg")
        return f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode()}"

    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    return re.sub(r"data:image/png;base64,\s*([\w+/=]+)", smaller, svg)


def for_a_page(svg: str, name: str) -> str:
    """An SVG that stands in HTML beside others: its ids start with ``name``, and it has no styles.

    Styles in elements would be refused by a page that trusts only its own style sheet.
    """
    svg = re.sub(r"<!--.*?-->\n?|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', _attributes, svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{escape(name)}-", svg)
    return svg.replace("<svg", f"<svg {EVERYWHERE}", 1)


def _attributes(style: re.Match[str]) -> str:
    """A style's declarations as attributes; the last of a name counts."""
    pairs = (each.partition(":") for each in style[1].split(";") if each.strip())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return "".join(f' {key}="{value}"' for key, value in found.items())
