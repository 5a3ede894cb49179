"""What was measured, one line for each turn, kept as it comes: a bench that is stopped goes on where it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from moiety.bench.machine import BUSY
from moiety.bench.sides import Turn

TURNS: Final = "turns.jsonl"


class Store:
    """The turns in a folder; ``build`` says which of them are of this installation."""

    def __init__(self, folder: Path, build: str) -> None:
        self.folder, self.build = folder, build
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, turn: Turn) -> None:
        """Keep a turn."""
        with (self.folder / TURNS).open("ab") as file:
            file.write(msgspec.json.encode(turn) + b"\n")

    def turns(self) -> Iterator[Turn]:
        """All of this build, in the order in which they were taken. A line that a crash cut short is passed over."""
        try:
            lines = (self.folder / TURNS).read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                turn = msgspec.json.decode(line, type=Turn)
            except msgspec.MsgspecError:
                continue
            if turn.build == self.build:
                yield turn

    def calm(self, workload: str, side: str) -> int:
        """How many turns of a side were taken while nothing else ran. The others are taken again."""
        return sum(turn.workload == workload and turn.side == side and turn.others <= BUSY for turn in self.turns())
