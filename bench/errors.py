"""How the command line shows an error: what happened, what was kept, what to type next; never a traceback."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from adapters.base import BenchError, UnknownAdapter
from cluster.state import home

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_LOSSES = 4
"""Done, but not with all that is stored: what was left out stands on stderr."""
EXIT_INTERRUPTED = 130
NEARLY_NOTHING = 1 << 20
"""Bytes: with less than that left a disk counts as full."""


class BadInput(BenchError):
    """What the user typed cannot be used: exit code 2."""


def exit_code(error: BenchError) -> int:
    """2 where the input was bad, otherwise 1."""
    return EXIT_BAD_INPUT if isinstance(error, (BadInput, UnknownAdapter)) else EXIT_FAILED


def render(error: BenchError) -> str:
    """The lines for stderr: `error:`, then `kept:` and `next:` where there is something to say."""
    lines = [f"error: {error.message}"]
    if error.kept:
        lines.append(f"kept: {error.kept}")
    if error.remedy:
        lines.append(f"next: {error.remedy}")
    return "\n".join(lines)


def run_cli(app: Callable[[], Any]) -> NoReturn:
    """Run a typer app as the program; ends the process with the exit code the error asks for."""
    try:
        app()
    except BenchError as error:
        fail(error)
    except BrokenPipeError:
        # The reader (`| head`) left: keep the interpreter from complaining about it while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        name = f" ({error.filename})" if error.filename else _full(error)
        fail(
            BenchError(
                f"{error.strerror or error}{name}",
                "free space or fix access, then the same command again",
                "what was stored before",
            )
        )
    except Exception as error:  # the last line of defence: a traceback is for those who ask for it
        if os.environ.get("BENCH_DEBUG"):
            raise
        fail(
            BenchError(
                f"unexpected: {type(error).__name__}: {error}",
                "BENCH_DEBUG=1 and the same command show where; this is a defect of bench",
                "what was stored before",
            )
        )
    sys.exit(0)


def _full(error: OSError) -> str:
    """Which of the folders that are written to is on a full disk, where that is what went wrong."""
    if error.errno != errno.ENOSPC:
        return ""
    places = [place for place in (home(), Path.cwd()) if place.exists()]
    full = [str(place) for place in places if shutil.disk_usage(place).free < NEARLY_NOTHING]
    return f" ({' and '.join(full)})" if full else ""


def fail(error: BenchError) -> NoReturn:
    """Print the error and end the process."""
    print(render(error), file=sys.stderr)
    sys.exit(exit_code(error))
