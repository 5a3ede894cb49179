"""The guides can be followed to the letter."""

from pathlib import Path

import pytest

from .pages import BLOCK, DOCS, Reader, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # a dozen commands each
OWN_MODEL = (DOCS / "guides" / "own-model.md").read_text(encoding="utf8")
THREE_MACHINES = (DOCS / "guides" / "three-machines.md").read_text(encoding="utf8")


def test_own_model(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        reader.follow(OWN_MODEL)


def test_three_machines(tmp_path: Path) -> None:
    machines, ports = ("alice", "bob", "carol", "vendor", "clinic"), free_ports(3)
    here = {f"{name}.example:{7000 + number}": f"127.0.0.1:{ports[number]}" for number, name in enumerate(machines[:3])}
    mended = {"hours.median(dim=2).values": "hours.mean(dim=2)"}
    with Reader(tmp_path, machines, here | mended) as reader:
        for _, title, body in BLOCK.findall(OWN_MODEL):
            if title:
                reader.save(f"vendor/{title}", body)
        reader.type("vendor", "python examples.py", "")
        reader.follow(THREE_MACHINES)
