"""Letters that a reader can see, whatever a record or a spelling holds."""


def visible(text: str) -> str:
    """The text with letters that don't print, such as those that turn its direction, spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else f"⟨U+{ord(c):04X}⟩" for c in text)
