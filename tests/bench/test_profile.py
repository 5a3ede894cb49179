"""``moiety bench --profile``: moiety's own time on a workload."""

import json
from pathlib import Path

from typer.testing import CliRunner

from moiety.cli.app import app


def test_a_workload_is_traced(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--profile", "gelu-1e5", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    [program] = json.loads(done.stdout)["programs"]
    assert sum(module["spoken_bytes"] + module["dealt_bytes"] for module in program["modules"]) == program["payload_bytes"]
    events = json.loads(Path(program["file"]).read_text())["traceEvents"]
    names = {event["name"] for event in events}
    assert "send to P1" in names
    assert any(name.endswith("(table)") for name in names)
    assert {event["cat"] for event in events if event["ph"] == "X"} == {"compute", "wait", "send", "wave"}


def test_links_of_peers_cannot_be_shaped() -> None:
    done = CliRunner().invoke(app, ["bench", "--link", "wan", "gelu-1e5"])
    assert done.exit_code == 2
    assert "--link goes with --profile" in done.stderr
