"""The harness: turns in processes, what is kept of them, medians, ratios, and the plot."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from moiety.bench import bars, driver, jobs, machine, material, peers, report, sides
from moiety.bench.peers import PEERS
from moiety.bench.results import TURNS, Store
from moiety.bench.sides import Measured, Turn, TurnFailed, take
from moiety.bench.workloads import WORKLOADS
from moiety.errors import ConfigError

NAME = "layernorm-128x768"
BUILD = machine.build()


def turn(side: str, wall: float, *, others: float = 0.0, workload: str = NAME, build: str = BUILD, sent: int = 100) -> Turn:
    measured = Measured((9.0, wall), (0.01, 2 * wall), (10, 20), sent, sent, 6, 0.5, 0.25, {})
    return Turn(workload, side, build, 2, 0.0, 0.0, others, measured, 1e-3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, BUILD)


def test_a_stopped_bench_goes_on(store: Store) -> None:
    assert list(store.turns()) == []
    for one in (turn("moiety", 1.0), turn("moiety", 1.0, others=1.5), turn("moiety", 1.0, build="before"), turn("spu", 1.0)):
        store.add(one)
    with (store.folder / TURNS).open("ab") as file:
        file.write(b'{"workload": "layern')  # the machine went off
    assert store.calm(NAME, "moiety") == 1
    assert store.calm(NAME, "spu") == 1
    assert len(list(store.turns())) == 3


def test_medians_and_ratios(store: Store) -> None:
    for wall in (0.1, 0.4, 0.2):
        store.add(turn("moiety", wall))
    store.add(turn("moiety", 50.0, others=2.0))
    for wall in (1.0, 3.0, 2.0):
        store.add(turn("spu", wall, sent=400))
    store.add(turn("torch", 0.05, sent=0))
    [row] = report.made(store, 0.0, 0.0).rows
    assert row.sides["moiety"].wall_s == 0.2
    assert row.sides["moiety"].walls == (0.1, 0.4, 0.2)
    assert row.sides["moiety"].cpu_s == 0.4
    assert row.sides["moiety"].peak_bytes == 20
    found = row.ratios["spu"]
    assert (found.wall, found.cpu, found.sent, found.rounds, found.memory) == pytest.approx((10, 10, 4, 1, 1))
    assert row.floor == pytest.approx(4)
    assert set(row.ratios) == {"spu"}


def test_turns_that_were_disturbed_count_only_alone(store: Store) -> None:
    store.add(turn("moiety", 1.0, others=1.0))
    made = report.made(store, 0.0, 0.0)
    assert not made.rows[0].sides["moiety"].calm
    assert report.restless(made) == [WORKLOADS[NAME].title]
    store.add(turn("moiety", 0.5))
    assert report.made(store, 0.0, 0.0).rows[0].sides["moiety"].walls == (0.5,)


def test_the_median_of_tokens() -> None:
    assert Measured((9.0, 1.0, 5.0, 2.0), (0.0,), (0,), 0, 0, 0, 0, 0, {}, steady=3).wall_s == 2.0


def test_from_shares_to_shares_is_apart_from_end_to_end(store: Store) -> None:
    ours = turn("moiety", 2.0)
    store.add(msgspec.structs.replace(ours, measured=msgspec.structs.replace(ours.measured, between_s=0.5)))
    for side, wall in (("spu", 4.0), ("torch", 0.1)):
        store.add(turn(side, wall))
    [row] = report.made(store, 0.0, 0.0).rows
    assert (row.sides["moiety"].wall_s, row.sides["moiety"].whole_s, row.sides["spu"].whole_s) == (0.5, 2.0, 4.0)
    assert (row.ratios["spu"].wall, row.ratios["spu"].whole) == (8.0, 2.0)
    assert row.floor == pytest.approx(20)


def test_errors_of_answers() -> None:
    assert jobs.error(np.array([[1.0, -2.0]]), np.array([1.5, -2.0], np.float32)) == 0.5
    assert jobs.error(np.array(7), np.array([7.0])) == 0
    assert jobs.error(np.array([7]), np.array([8])) == 1


@pytest.fixture
def job(tmp_path: Path) -> Path:
    material.write(WORKLOADS[NAME], tmp_path / "job")
    return tmp_path / "job"


FAILING = {
    "raise SystemExit('no room')": "status 1: no room",
    "pass": "ended with b'nothing', which is no result",
    "import time; time.sleep(60)": "did not end",
}


@pytest.mark.parametrize(("code", "said"), FAILING.items())
def test_a_side_that_fails(job: Path, code: str, said: str) -> None:
    with pytest.raises(TurnFailed, match=said):
        take("peer", [sys.executable, "-c", code], job, BUILD, latest_s=2.0)


@pytest.mark.parametrize("walls", [(2.0,), (9.0, 2.0), (9.0, 9.0, 9.0, 1.0, 4.0, 2.0, 0.5, 8.0)])
def test_what_a_side_says_is_read(job: Path, walls: tuple[float, ...]) -> None:
    """It prints other things too, its answer is compared with float64, and of an operation the last five runs count."""
    told = msgspec.json.encode(msgspec.structs.replace(turn("peer", 2.0).measured, walls=walls)).decode()
    wrong = "numpy.save(sys.argv[2] + '/output.npy', numpy.load(sys.argv[1] + '/reference.npy') + 0.5)"
    code = f"import sys, numpy; {wrong}; print('hello'); print({told!r})"
    taken = take("peer", [sys.executable, "-c", code], job, BUILD)
    assert taken.max_error == pytest.approx(0.5)
    assert taken.measured.wall_s == 2.0
    assert (taken.workload, taken.side, taken.runs) == (NAME, "peer", len(walls))


def test_moiety_against_torch(store: Store, tmp_path: Path) -> None:
    """Real parties, and PyTorch in the clear; the second time nothing is measured again."""
    said: list[str] = []
    workloads, others = driver.chosen([NAME], ["torch"])
    bench = driver.Bench(workloads, others, 1, store, tmp_path, said.append)
    [row] = bench.run().rows
    assert bench.failures == []
    assert row.sides["moiety"].max_error < 1e-3
    assert row.sides["torch"].max_error < 1e-5
    assert len(next(store.turns()).measured.cpu_s) == 3
    assert row.sides["moiety"].among_bytes < row.sides["moiety"].sent_bytes < row.sides["moiety"].wire_bytes
    assert 0 < row.sides["moiety"].wall_s != row.sides["moiety"].whole_s
    assert row.sides["moiety"].rounds > 0
    assert row.floor is not None
    store_of_calm = [msgspec.structs.replace(one, others=0.0) for one in store.turns()]
    (store.folder / TURNS).write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in store_of_calm))
    bench.run()
    assert said[-1].endswith("measured before")


def test_a_side_that_fails_is_left_out(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(side: str, *_: object) -> Turn:
        if side == "torch":
            raise TurnFailed("torch ended with status 1: no room")
        return turn(side, 1.0, others=1.0)

    monkeypatch.setattr(driver, "take", fails)
    bench = driver.Bench(*driver.chosen([NAME], ["torch"]), 3, store, tmp_path, lambda text: None)
    assert len(bench.run().failures) == 1
    assert [one.side for one in store.turns()] == ["moiety"] * 3


@pytest.mark.parametrize("names", [(["nothing"], []), ([], ["nobody"])])
def test_names_that_do_not_exist(names: tuple[list[str], list[str]]) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        driver.chosen(*names)


def test_the_command_knows_its_names() -> None:
    done = subprocess.run([sys.executable, "-m", "moiety.cli", "bench", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == ConfigError.exit_status
    assert "there is no workload 'nothing'; take matmul-512x768x768" in done.stderr


def test_an_environment_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], title: str) -> None:
        raise peers.NoEnvironment(f"{title} cannot be installed here")

    monkeypatch.setattr(peers, "_run", fails)
    said: list[str] = []
    bench = driver.Bench([], [PEERS["spu"], PEERS["torch"]], 1, Store(tmp_path / "out", BUILD), tmp_path, said.append)
    assert bench.run().failures == (said[-1],)
    assert [peer.name for peer in bench.peers] == ["torch"]


def test_a_peer_that_is_built_needs_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MOIETY_MP_SPDZ", raising=False)
    peer = PEERS["mp-spdz"]
    assert peers.usual(tmp_path) == peers.USUAL
    with pytest.raises(peers.NoEnvironment, match=r"there is no git, make, clang\+\+, openssl\. Debian has"):
        peer.install(tmp_path, print)
    assert [peer.takes(WORKLOADS[name]) for name in ("relu-1e5", "gelu-1e5", "gpt2")] == [True, False, False]


def test_a_checkout_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("replicated-ring-party.x", "Player-Data/P2.pem"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("MOIETY_MP_SPDZ", str(tmp_path))
    PEERS["mp-spdz"].install(tmp_path / "peers", print)
    assert str(tmp_path.resolve()) in PEERS["mp-spdz"].line(tmp_path / "peers")
    assert "mp-spdz" in peers.usual(tmp_path / "peers")


def test_the_plot_shows_every_side(store: Store) -> None:
    for side, wall in (("moiety", 0.1), ("spu", 2.0), ("torch", 0.001)):
        store.add(turn(side, wall))
    drawn = bars.plot(report.made(store, 0.0, 0.0))
    for shown in ('class="moiety"', 'class="spu"', 'class="torch"', "layer norm", "2 s, 20.0×, error 1e-03"):
        assert shown in drawn


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sent"), [("spu", 17_200_000), ("crypten", 92_800_000), ("mp-spdz", 10_609_920)])
def test_a_peer_where_it_is_installed(name: str, sent: int, tmp_path: Path) -> None:
    peer = PEERS[name]
    if not peer.installed(peers.folder()):
        pytest.skip(f"{peer.title} is not installed; `moiety bench relu-1e5 --peer {name}` installs it")
    material.write(WORKLOADS["relu-1e5"], tmp_path / "job")
    taken = sides.take(name, peer.line(peers.folder()), tmp_path / "job", BUILD)
    assert taken.measured.sent_bytes == sent
    assert taken.max_error < 1e-4
