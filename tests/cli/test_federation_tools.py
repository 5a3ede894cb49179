"""``moiety status`` and ``moiety doctor`` on a federation of three processes."""

import datetime
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import moiety
from moiety.cli.app import app
from moiety.cli.source import resolve
from moiety.engine.launch import CLIENT, PARTIES, LocalParties, start
from moiety.engine.owner import open_session
from moiety.engine.session import Deadlines
from moiety.errors import ChannelError, NotDeployed
from moiety.net import create_identity


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalParties]:
    with start(tmp_path_factory.mktemp("federation") / "f") as local:
        yield local


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="moiety", env={"COLUMNS": "120", "TERM": "dumb"})


def data(*arguments: str, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def of(local: LocalParties, name: str = CLIENT) -> tuple[str, ...]:
    return ("--federation", str(local.federation), "--party", name)


def checks(found: Any) -> dict[str, tuple[str, str]]:
    return {check["what"]: (check["verdict"], check["found"]) for check in found["checks"]}


def test_status_of_a_federation(parties: LocalParties) -> None:
    found = data("status", *of(parties))
    assert (found["ok"], found["member"]) == (True, CLIENT)
    assert [(one["name"], one["role"], one["ok"]) for one in found["parties"]] == [(n, f"P{i}", True) for i, n in enumerate(PARTIES)]
    standing = found["parties"][0]["standing"]
    assert (standing["version"], standing["models"], standing["own_sessions"]) == ("0.1.0", [], 0)
    assert "type" not in standing
    shown = run("status", *of(parties, PARTIES[0]))
    assert shown.exit_code == 0
    assert PARTIES[0] not in shown.stdout
    assert all(text in shown.stdout for text in (PARTIES[1], PARTIES[2], "0 in all"))


def test_doctor_of_an_owner(parties: LocalParties) -> None:
    found = data("doctor", *of(parties))
    verdicts = checks(found)
    assert found["ok"]
    for i, name in enumerate(PARTIES):
        verdict, said = verdicts[f"{name} (P{i})"]
        assert verdict == "ok"
        assert all(text in said for text in ("TLS 1.3", "round trip", "Mbit/s there"))
    assert verdicts["clock"][0] == verdicts["certificates"][0] == verdicts["identity"][0] == "ok"
    assert verdicts["fingerprint"][1].startswith("sha256:")
    assert "PRIVATE" not in json.dumps(found)
    assert "this party" not in verdicts


def test_what_is_broken_has_a_verdict_and_a_remedy(parties: LocalParties) -> None:
    parties.end(PARTIES[1])
    try:
        found = data("doctor", *of(parties, PARTIES[1]), status=1)
        seen = data("doctor", *of(parties), status=1)
        missed = run("status", *of(parties), "--wait", "0.5")
        with pytest.raises(ChannelError, match=PARTIES[1]):
            open_session(parties.directory, parties.identity(CLIENT), deadlines=Deadlines(absent_s=0.2))
        told = data("status", *of(parties), "--wait", "0.5", status=1)["parties"][0]["standing"]["last_error"]["text"]
    finally:
        parties.restart(PARTIES[1])
    assert checks(found)["this party"][0] == "bad"
    assert f"start it: moiety party --name {PARTIES[1]}" in next(check["do"] for check in found["checks"] if check["what"] == "this party")
    assert checks(found)[f"{PARTIES[0]} (P0)"][0] == "ok"
    assert checks(seen)[f"{PARTIES[1]} (P1)"][1].startswith("[MOI-302]")
    assert checks(seen)[f"{PARTIES[2]} (P2)"][0] == "ok"
    assert missed.exit_code == 1
    assert "not reached" in missed.stdout
    assert re.match(rf"{PARTIES[1]} at .*; so {CLIENT} could not open the session", told)


def test_identities_are_judged(parties: LocalParties, tmp_path: Path) -> None:
    copy = tmp_path / "f"
    shutil.copytree(parties.folder, copy, ignore=shutil.ignore_patterns("*.log"))
    shutil.rmtree(copy / CLIENT)
    old = parties.identity(CLIENT)
    create_identity(CLIENT, copy / CLIENT, valid_days=365)  # another key than the one that is pinned
    file = copy / "federation.toml"
    (copy / "pinned.crt").write_text((parties.folder / CLIENT / "identity.crt").read_text())
    file.write_text(file.read_text().replace(f"{CLIENT}/identity.crt", "pinned.crt"))
    asked = ("doctor", "--federation", str(file), "--party", CLIENT, "--identity", str(copy / CLIENT))
    verdicts = checks(data(*asked, status=1))
    assert verdicts["fingerprint"][0] == "bad"
    assert old.fingerprint in verdicts["fingerprint"][1]
    assert verdicts[f"{PARTIES[0]} (P0)"][1].startswith("[MOI-200]")
    (copy / CLIENT / "identity.key").chmod(0o644)
    verdict, said = checks(data(*asked, status=1))["identity"]
    assert (verdict, "chmod 600" in said) == ("bad", True)


def test_certificates_that_expire_are_told(parties: LocalParties, tmp_path: Path) -> None:
    copy = tmp_path / "f"
    shutil.copytree(parties.folder, copy, ignore=shutil.ignore_patterns("*.log"))
    file, text = copy / "federation.toml", ""
    for name, days in (("model-owner", 10.0), (PARTIES[2], -1.0)):
        shutil.rmtree(copy / name)
        made = create_identity(name, copy / name, valid_days=days)
        text = file.read_text().replace(parties.identity(name).fingerprint, made.fingerprint)
        file.write_text(text)
    said = [check["found"] for check in data("doctor", "--federation", str(file), "--party", CLIENT, status=1)["checks"]]
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10)
    assert any(f"that of model-owner expires on {soon:%Y-%m}" in text for text in said)
    assert any(f"that of {PARTIES[2]} expired on" in text for text in said)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for command in ("doctor", "status"):
        failed = run(command, "--federation", str(tmp_path / "none.toml"))
        assert (failed.exit_code, failed.stdout) == (2, "")
        assert "error [MOI-100]" in failed.stderr


def test_a_model_of_ones_own_is_deployed_by_its_name(parties: LocalParties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a user's file, with ranges from a file, to a data owner who has neither; then status names it."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "import torch\ndef triage():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU()), (torch.ones(2, 4),)\n"
    )
    np.savez("examples.npz", input=np.random.default_rng(0).uniform(-3, 3, (30, 2, 4)).astype(np.float32))
    data("calibrate", "own.py:triage", "--data", "examples.npz")
    vendor = ("--federation", str(parties.federation), "--party", "model-owner")
    deployed = data("deploy", "own.py:triage", *vendor, "--ranges", "ranges.json")
    assert (deployed["name"], len(deployed["plans"]), deployed["parameters"]) == ("triage", 1, 15)
    x = np.full((2, 4), -2.5, np.float32)
    with moiety.connect(parties.federation, party=CLIENT) as federation:
        answer = np.asarray(federation.model("triage")(x))
    model = resolve("own.py:triage").model
    assert np.abs(answer - model(torch.from_numpy(x)).detach().numpy()).max() < 2e-3
    held = data("status", *of(parties))["parties"][1]["standing"]["models"]
    assert [(model["name"], model["plans"]) for model in held] == [("triage", deployed["plans"])]
    assert "made-up" not in run("deploy", "own.py:triage", *vendor, "--ranges", "ranges.json", "--name", "other").stderr


def test_new_weights_under_an_old_name_are_refused_or_replace_it(
    parties: LocalParties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights get further plans; others are never kept back in silence. Ranges that nobody measured are told of."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "import torch\ndef made(seed):\n    torch.manual_seed(seed)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU())\n"
        "def one():\n    return made(0), (torch.ones(2, 4),)\ndef two():\n    return made(1), (torch.ones(2, 4),)\n"
    )
    to = ("--federation", str(parties.federation), "--party", "model-owner", "--name", "kept")
    first = run("deploy", "own.py:one", *to)
    assert first.exit_code == 0, first.output
    assert "all three parties hold 'kept': 1 plan over 15 parameters" in first.stderr
    assert "! ranges were measured on made-up inputs" in first.stderr
    assert "kept" not in first.stderr.replace("'kept'", "")
    again = run("deploy", "own.py:one", *to, "--input", "5x4")
    assert "of 2 weights 2 were there already, the same as yours: they and their plans stay" in again.stderr, again.output
    for shape in ("2x4", "7x4"):
        refused = run("deploy", "own.py:two", *to, "--input", shape)
        assert refused.exit_code == 5
        assert "error [MOI-407]: another model is deployed as 'kept': the weight" in refused.stderr
        assert "--replace" in refused.stderr
    assert data("deploy", "own.py:two", *to, "--replace")["shared"] == 2
    x = np.full((2, 4), 0.5, np.float32)
    with moiety.connect(parties.federation, party=CLIENT) as federation:
        answer = np.asarray(federation.model("kept")(x))
    assert np.abs(answer - resolve("own.py:two").model(torch.from_numpy(x)).detach().numpy()).max() < 2e-3
    parties.restart(PARTIES[2])
    assert re.search(rf"kept .*; missing at {PARTIES[2]}: deploy it again", run("status", *of(parties)).stdout)
    with moiety.connect(parties.federation, party=CLIENT) as federation, pytest.raises(NotDeployed, match=f"{PARTIES[2]} holds no plan"):
        federation.model("kept")
    assert data("deploy", "own.py:two", *to)["shared"] == 2


def test_a_key_that_is_not_here(parties: LocalParties, tmp_path: Path) -> None:
    """Somebody else's folder holds a certificate alone, and may be open to all: neither is to be mended."""
    copy = tmp_path / "f"
    shutil.copytree(parties.folder, copy, ignore=shutil.ignore_patterns("*.log", "identity.key"))
    (copy / PARTIES[1]).chmod(0o755)
    file = copy / "federation.toml"
    for arguments, text in (
        (("status", "--party", CLIENT), f"the key of {CLIENT} is not here: there is no {copy / CLIENT / 'identity.key'}"),
        (("status",), "the key of no owner in"),
        (
            ("party", "--name", PARTIES[1]),
            f"identity.key does not exist, only the certificate of {PARTIES[1]}: this may not be its machine",
        ),
    ):
        failed = run(*arguments, "--federation", str(file))
        assert (failed.exit_code, text in failed.stderr) == (2, True), failed.output
        assert not {"chmod", '"..."', "create_identity"} & set(failed.stderr.replace(";", " ").split())
