"""Texts as the page has them."""

import re

Prose = list[tuple[str, bool]]
"""A sentence in parts, each with whether it is code."""


def slug(text: str) -> str:
    """A name as a fragment of an address."""
    return re.sub(r"[^\w.+=-]+", "_", text, flags=re.ASCII)


def prose(sentence: str) -> Prose:
    """A sentence whose spellings stand in backquotes."""
    return [(part, i % 2 == 1) for i, part in enumerate(sentence.split("`")) if part]
