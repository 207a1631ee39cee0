"""What is known of a dataset before it is read: where it can be had, and what must lie there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Archive:
    """A file that can be downloaded.

    name: of the file. urls: its mirrors, the best one first. digest: "md5:..." or "sha256:...".
    into: the folder, below that of all datasets, which it belongs in: unpacked, if its name ends as
    that of a tar or zip file, else as it is.
    """

    name: str
    urls: tuple[str, ...]
    digest: str
    into: str = "."


@dataclass(frozen=True)
class Source:
    """A dataset by name.

    check: looks at what lies in the folder of all datasets, and returns what is there in a few
        words; raises BadInput, which says what is missing or wrong.
    where: what it has in the folder of all datasets; "" if it needs nothing there.
    by_hand: how to get it where nothing may be downloaded without asking somebody first.
    """

    name: str
    title: str
    use: Literal["classification", "out of distribution", "corruption", "detection"]
    check: Callable[[Path], str]
    where: str = ""
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
