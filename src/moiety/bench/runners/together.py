"""Processes that live and fail together: the parties of a peer."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_all(commands: Sequence[Sequence[str]], out: Path, places: Sequence[Mapping[str, str]] | None = None) -> None:
    """Run one process for each command, in its environment of ``places``, to the end. The first may print, errors go to files.

    When one fails, the others are stopped and this process exits with what the failed one said.
    """
    processes = []
    for rank, command in enumerate(commands):
        with (out / f"error.{rank}").open("wb") as error:
            stdout, place = None if rank == 0 else subprocess.DEVNULL, places[rank] if places else {}
            processes.append(subprocess.Popen(command, env={**os.environ, **place}, stdout=stdout, stderr=error))
    try:
        running = True
        while running:
            time.sleep(0.02)
            ended = [process.poll() for process in processes]
            running = None in ended
            for rank, status in enumerate(ended):
                if status:
                    said = (out / f"error.{rank}").read_text(encoding="utf-8", errors="replace")
                    sys.exit(f"party {rank} ended with status {status}: {said[-2000:]}")
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait()
