"""The command line. Torch is imported by the commands that need it, so that help comes at once."""

import os
import sys
import warnings
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from mixbench.bench.cli import checking, datasets, filling, following, listing, showing
from mixbench.bench.cli._base import cli, complain
from mixbench.bench.spec import BadInput

__all__ = ["checking", "cli", "datasets", "filling", "following", "listing", "main", "showing"]


def main() -> None:
    """Run the command line; what the user got wrong ends in one line and exit code 2."""
    sys.path.append(str(Path.cwd()))  # where a module of the user's own may lie
    warnings.showwarning = _warn_once
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal can't show is no error
    code = 2
    try:
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except BadInput as error:
        complain(str(error))
    except click.ClickException as error:
        complain(error.format_message())
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else "the system"
        complain(f"{where}: {error.strerror or error}")
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted; what is done is kept, and the same command goes on")
        code = 130
    sys.exit(code)


@cache
def _warned(line: str) -> None:
    complain(line)


def _warn_once(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say a warning on one line, unless a run in another process said the same."""
    _warned(str(message))
