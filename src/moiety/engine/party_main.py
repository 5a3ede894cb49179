"""``python -m moiety.engine.party_main``: run one compute party; what ``moiety party`` and the local federation start."""

import argparse
import gc
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from moiety.engine.injection import seam
from moiety.engine.party import serve
from moiety.engine.session import Deadlines
from moiety.errors import MoietyError
from moiety.ring import keep_freed, use_device

COLLECT_AFTER: Final = (20_000, 20, 100)
"""How many new objects start a search for garbage cycles, and how many searches a wider one. A run makes thousands of objects a wave
that end without any search; at Python's 700, searches took 4 % of a decoding step."""
SWITCH_S: Final = 0.0005
"""How long one session's Python may keep another's waiting. At Python's 5 ms every wave of a short run queues behind a plan that is
being checked in another session."""


def parser() -> argparse.ArgumentParser:
    """The options of a party's process."""
    out = argparse.ArgumentParser(prog="moiety party", description="Run one compute party.")
    out.add_argument("folder", type=Path, help="folder with the party's identity and counter")
    out.add_argument("federation", type=Path, help="the federation file")
    out.add_argument("--name", help="fail unless the identity has this name")
    out.add_argument("--port", type=int, help="listen here instead of at the port in the file; 0 takes any free one")
    out.add_argument("--deadlines", default="{}", help='seconds as JSON, for example {"wave_s": 60}')
    out.add_argument("--faults", type=Path, help="for tests: fail on purpose, as this file says (docs/failures.md)")
    out.add_argument("--link", help="for measurements: send as slowly as this link, like wan or 20ms,100Mbit (docs/links.md)")
    out.add_argument("--device", help="run the ring products on this device, like cuda (docs/gpu.md)")
    out.add_argument("--parent", action="store_true", help="print the port, wait for a line on stdin, stop when stdin ends")
    return out


def announce_to_parent(stop: threading.Event, port: int) -> None:
    """Tell the parent our port; go on when it says so; from then on its end is ours."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        stop.set()
        return

    def follow() -> None:
        while sys.stdin.readline():
            pass
        stop.set()

    threading.Thread(target=follow, name="moiety-parent", daemon=True).start()


def settle() -> None:
    """Set up a process that is a compute party and nothing else."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*COLLECT_AFTER)
    keep_freed()


def main(arguments: list[str] | None = None, **seams: object) -> int:
    """Run until stopped. ``seams`` (wrap, watcher) go to ``serve``; returns the exit status."""
    options, stop = parser().parse_args(arguments), threading.Event()
    settle()
    try:
        use_device(options.device)
        if options.faults is not None or options.link is not None:
            seams["wrap"] = seam(options.name, faults=options.faults, link=options.link)
        deadlines = msgspec.json.decode(options.deadlines, type=Deadlines)
        serve(
            options.folder,
            options.federation,
            options.name,
            port=options.port,
            announce=(lambda port: announce_to_parent(stop, port)) if options.parent else None,
            deadlines=deadlines,
            stop=stop,
            **seams,  # type: ignore[arg-type]
        )
    except MoietyError as error:
        sys.stderr.write(f"{error.code} {error}\n")
        return error.exit_status
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"--deadlines: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
