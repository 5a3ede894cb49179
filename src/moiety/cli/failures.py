"""Every failure as one line on stderr and a documented exit status; interruptions end what was started."""

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import typer

from moiety.errors import ConfigError, MoietyError

INTERRUPTED: Final = 128 + signal.SIGINT
BROKEN_PIPE: Final = 128 + signal.SIGPIPE
STATUSES: Final = {
    0: "done",
    1: "done, and what was found is not good: an obstacle, a disagreement, a claim that does not hold",
    2: "could not run: wrong usage, file, folder or package",
    3: "wrong certificate or name",
    4: "connection lost, late or taken",
    5: "plan refused or not runnable",
    6: "input or value out of range",
    7: "a run number would be used twice",
    8: "a defect of moiety or of a program that it was given",
    9: "audit log broken",
    INTERRUPTED: "interrupted",
}
"""What every command's exit status means; ``docs/cli.md`` has the same table."""
EPILOG: Final = (
    f"Exit status: {'; '.join(f'{status} {meaning}' for status, meaning in STATUSES.items())}. Every error line names its kind as "
    "\\[MOI-nnn]; `moiety explain` knows them."
)
TRACEBACK: Final = "MOIETY_TRACEBACK"
"""Set in the environment, it lets unforeseen errors end the command with all that Python knows about them."""

P = ParamSpec("P")
R = TypeVar("R")


class Stopped(BaseException):
    """The process was told to end by SIGTERM or SIGHUP."""


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors become ``error [MOI-nnn]: what`` on stderr and an exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with told_to_stop():
                return command(*args, **kwargs)
        except MoietyError as error:
            fail(error.code, str(error), error.exit_status)
        except ModuleNotFoundError as error:
            fail(ConfigError.code, f"this command needs {error.name}; run `make setup`, or pip install 'moiety[models]'", 2)
        except FileNotFoundError as error:
            fail(ConfigError.code, str(error), ConfigError.exit_status)
        except BrokenPipeError:  # the reader of our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise typer.Exit(INTERRUPTED) from None
        except Stopped as told:
            raise typer.Exit(128 + int(told.args[0])) from None
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            fail(MoietyError.code, unforeseen(error), MoietyError.exit_status)

    return run


def unforeseen(error: Exception) -> str:
    """Of an error that nobody raised on purpose its type and place; its message was not written with secrets in mind."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"unforeseen {type(error).__name__} at {places}; that is a defect: report it with what {TRACEBACK}=1 shows, if that is no secret"


def fail(code: str, message: str, status: int) -> NoReturn:
    """Print the error line and end with ``status``."""
    sys.stderr.write(f"error [{code}]: {message}\n")
    raise typer.Exit(status) from None


@contextmanager
def told_to_stop() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the command, so that it ends the processes that it started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
