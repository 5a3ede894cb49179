"""What a party refuses: every refusal ends the session with an error of its own class, and the next session works."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from moiety.compile.plan import Input, Node, Output, Plan
from moiety.engine import session
from moiety.engine.directory import Rules
from moiety.engine.launch import CLIENT, MODEL_OWNER, PARTIES, LocalParties, start
from moiety.engine.messages import AddPlan, Deploy, Fine, Roster, Run, Tensor, say
from moiety.engine.owner import OwnerSession, open_session
from moiety.engine.policy import accept_plan
from moiety.errors import (
    ConfigError,
    FrameError,
    IdentityError,
    InconsistentInput,
    InputError,
    MoietyError,
    PlanError,
    PlanMismatch,
    PolicyRefused,
    ReuseRefused,
)
from moiety.mpc.party import Key
from moiety.mpc.rounds import Role
from moiety.net import FaultyChannel, Kind, create_identity, dial

from . import plans
from .conftest import STRANGER, as_client, as_owner


@pytest.fixture(scope="module")
def ready(local: LocalParties) -> LocalParties:
    with as_owner(local) as owner:
        for name in ("mlp", "unreceived", "unasked"):
            owner.deploy(name, [plans.mlp()], plans.mlp_weights())
    return local


@pytest.fixture(autouse=True)
def still_well(ready: LocalParties) -> object:
    yield
    x = np.ones((4, 16))
    with as_client(ready) as client:
        found = client.run("mlp", plans.mlp(), plans.words(x))
    assert np.abs(plans.reals(found) - plans.mlp_float(plans.mlp_weights(), x)).max() < 0.005
    assert all(process.poll() is None for process in ready.processes.values())


PARTS = (Role.P0, Role.P1, Role.P2)


def refused(
    session: OwnerSession,
    error: type[MoietyError],
    speak: Callable[..., object],
    *,
    to: Sequence[Role] = PARTS,
    of: Role = Role.P1,
    match: str | None = None,
) -> None:
    """Say something by hand to some parties; the error that one of them gives reaches the owner as its own class."""

    def attempt() -> None:
        with session.guarded():
            for role in to:
                speak(role)
            session._hear(of, Fine, "its verdict")

    with pytest.raises(error, match=match):
        attempt()


def send_plan(session: OwnerSession, role: Role, announced: str, data: bytes) -> None:
    say(session.session.send[role], AddPlan("mlp", announced))
    session.session.send[role].send(Kind.CONTROL, [data])


def leaky() -> Plan:
    """The MLP, with the hidden layer revealed although it is no declared output."""
    plan = plans.mlp()
    return plans.finished(msgspec.structs.replace(plan, nodes=(*plan.nodes, Node("reveal", (6,)))))


def not_a_reveal() -> Plan:
    plan = plans.mlp()
    return plans.finished(msgspec.structs.replace(plan, outputs=(*plan.outputs, Output("h", 6, (4, 32), 12, 9.0))))


def false_table() -> Plan:
    plan = plans.mlp()
    waves = ((plan.waves[0][0] + 8, *plan.waves[0][1:]), *plan.waves[1:])
    return msgspec.structs.replace(plan, waves=waves)


def renamed(op: str) -> Plan:
    plan = plans.mlp()
    return msgspec.structs.replace(plan, nodes=(*plan.nodes[:3], Node(op, (2,), {"fraction": 12}), *plan.nodes[4:]))


def forward() -> Plan:
    plan = plans.mlp()
    return msgspec.structs.replace(plan, nodes=(Node("reveal", (5,)), *plan.nodes[1:]))


def crooked() -> Plan:
    plan = plans.mlp()
    return msgspec.structs.replace(plan, nodes=(Node("input", (), {"index": 7}), *plan.nodes[1:]))


def echo(shape: tuple[int, ...] = (4,), declared: tuple[int, ...] | None = None, scale: object = 1, flag: bool = False) -> Plan:
    """The input, scaled, goes back to the client."""
    nodes = (Node("input", (), {"index": 0}), Node("scale", (0,), {"factor": scale}), Node("reveal", (1,)))
    outputs = () if flag else (Output("y", 2, shape if declared is None else declared, 12, 9.0),)
    draft = Plan(nodes=nodes, inputs=(Input("x", shape, "fixed", 12, 8.0),), outputs=outputs, flag=2 if flag else -1)
    return plans.finished(draft)


def bare(shape: tuple[int, ...]) -> Plan:
    """Nothing but the input, in a shape whose bytes may be no honest number."""
    nodes, outputs = (Node("input", (), {"index": 0}), Node("reveal", (0,))), (Output("y", 1, shape, 12, 9.0),)
    return plans.finished(Plan(nodes=nodes, inputs=(Input("x", shape, "fixed", 12, 8.0),), outputs=outputs))


def swollen(shape: tuple[int, ...]) -> Plan:
    """An honest wave table, and an input whose bytes fit no word, so that no honest table could be sent."""
    plan = bare((2, 2))
    return msgspec.structs.replace(plan, inputs=(msgspec.structs.replace(plan.inputs[0], shape=shape),))


def echo_with(node: Node) -> Plan:
    plan = echo()
    return msgspec.structs.replace(plan, nodes=(plan.nodes[0], node, plan.nodes[2]))


def false_window() -> Plan:
    """Selectors of 2^40 cells."""
    plan = plans.mlp()
    table = Node("table", (3, 4), {"windows": (-(1 << 15), 0, 9, 40), "fraction": 30})
    return msgspec.structs.replace(plan, nodes=(*plan.nodes[:5], table, *plan.nodes[6:]))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: echo(declared=(1,)), PolicyRefused),
        (lambda: echo(flag=True), PolicyRefused),
        (lambda: echo(scale=0.5), PlanError),
        (lambda: echo_with(Node("scale", (0,), {"factor": 1 << 63})), PlanError),
        (lambda: echo_with(Node("as_fraction", (0,), {"fraction": 1 << 40})), PlanError),
        (lambda: echo_with(Node("take", (0,), {"axis": 0, "indices": (0, 0.5)})), PlanError),
        (lambda: bare((-2, -2)), PlanError),
        (lambda: bare((1 << 30, 1 << 30)), PlanError),
        (lambda: swollen((1 << 32, 1 << 32)), PlanError),
        (false_window, PlanError),
    ],
)
def test_plan_of_odd_numbers(make: Callable[[], Plan], error: type[MoietyError]) -> None:
    """Shapes are sizes, parameters whole numbers, and no more is opened than is declared."""
    plan = make()
    for role in PARTS:
        with pytest.raises(error):
            accept_plan(plan.encode(), plan.hash, role)
    echoed = echo()
    assert accept_plan(echoed.encode(), echoed.hash, Role.P1).hash == echoed.hash


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (leaky, PolicyRefused),
        (not_a_reveal, PolicyRefused),
        (false_table, PlanMismatch),
        (lambda: renamed("open_all"), PlanError),
        (forward, PolicyRefused),
        (crooked, PlanError),
        (lambda: msgspec.structs.replace(plans.mlp(), protocol="none"), PlanError),
    ],
)
def test_tampered_plan(ready: LocalParties, make: Callable[[], Plan], error: type[MoietyError]) -> None:
    plan = make()
    for role in PARTS:
        with as_owner(ready) as owner:
            refused(owner, error, lambda role: send_plan(owner, role, plan.hash, plan.encode()), to=[role], of=role)
        with pytest.raises(error):
            accept_plan(plan.encode(), plan.hash, role)


def test_changed_bytes(ready: LocalParties) -> None:
    plan, other = plans.mlp(), plans.mlp(rows=3)
    with as_owner(ready) as owner:
        refused(owner, PlanMismatch, lambda role: send_plan(owner, role, plan.hash, other.encode()), match="changed on the way")
    for data in (b"", b"\x80", plan.encode()[:-20], plan.encode().replace(b"linear", b"linea\xff")):
        with pytest.raises(PlanError):
            accept_plan(data, plan.hash, Role.P1)


def test_plan_reads_a_weight_of_another_shape(ready: LocalParties) -> None:
    with as_owner(ready) as owner, pytest.raises(PlanMismatch, match=r"another shape .*moiety deploy --replace"), owner.guarded():
        owner._add("mlp", plans.mlp(hidden=64))  # as its owner, who asks first, would not


def test_permissions(ready: LocalParties) -> None:
    plan, words = plans.mlp(), plans.words(np.ones((4, 16)))
    with as_client(ready) as client, pytest.raises(PolicyRefused, match="client may not deploy"):
        client.deploy("mlp", [plans.mlp(rows=2)], plans.mlp_weights(), replace=True)
    with as_client(ready) as client, pytest.raises(PolicyRefused, match="client may not receive"):
        client.run("unreceived", plan, words)
    with as_client(ready) as client, pytest.raises(PolicyRefused, match="client may not query"):
        client.run("unasked", plan, words)
    with as_client(ready, STRANGER) as stranger, pytest.raises(PolicyRefused, match="stranger may not query"):
        stranger.run("mlp", plan, words)
    with as_client(ready, STRANGER) as stranger, pytest.raises(PolicyRefused):
        stranger.fetch_plans("mlp")


def test_weights_are_read_by_plans_of_their_owner_alone(tmp_path: Path) -> None:
    """Whoever may deploy could else add a plan that opens what another shared under the same name."""
    plan, rules = plans.mlp(), Rules(("one", "other"), ("one", "other"), ("one", "other"))
    with start(tmp_path, owners=("one", "other"), models={"*": rules}) as local:
        with as_client(local, "one") as one:
            one.deploy("mlp", [plan], plans.mlp_weights())
        with as_client(local, "other") as other, pytest.raises(PolicyRefused, match="other shared"):
            other.deploy("mlp", [plans.mlp(rows=2)], {})
        with as_client(local, "other") as other, pytest.raises(MoietyError, match="MOI-403"):
            other._share("mlp", (Tensor("w0", (16, 32), 12, True),), plans.mlp_weights(), False)
        with as_client(local, "other") as other:  # who may query may still run the owner's plan
            other.run("mlp", plan, plans.words(np.ones((4, 16))))
        counter = tmp_path / PARTIES[0] / "counter"
        counter.chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600") as caught:
            as_client(local, "one")
        assert str(tmp_path) not in str(caught.value)  # owners need not know where parties keep their files


def test_unknown_plan(ready: LocalParties) -> None:
    with as_client(ready) as client, pytest.raises(PlanMismatch, match="holds no plan"):
        client.run("mlp", plans.mlp(rows=9), plans.words(np.ones((9, 16))))


def ask_for(client: OwnerSession, role: Role, number: int, **changed: object) -> None:
    """A run request by hand."""
    held = {Role.P0: ("key_d", "key_e"), Role.P1: ("key_d",), Role.P2: ("key_e",)}[role]
    fields = {"position": None, **{key: bytes([Key[key[-1].upper()]]) * 32 for key in held}, **changed}
    say(client.session.send[role], Run(number, "mlp", fields.pop("plan", plans.mlp().hash), **fields))  # type: ignore[arg-type]


PARTS = (Role.P0, Role.P1, Role.P2)


def test_run_number_is_used_once(ready: LocalParties) -> None:
    for number in (1, 0):
        with as_client(ready) as client:
            client.run("mlp", plans.mlp(), plans.words(np.ones((4, 16))))
            refused(client, ReuseRefused, lambda role, number=number: ask_for(client, role, number), match="already used")


@pytest.mark.parametrize(
    ("odd", "changed", "error"),
    [
        (Role.P2, {"number": 9}, PlanMismatch),
        (Role.P0, {"number": 9}, PlanMismatch),
        (Role.P1, {"position": 5}, PlanMismatch),
        (Role.P1, {"key_d": b"x" * 32}, InconsistentInput),
        (Role.P2, {"key_e": b"x" * 32}, InconsistentInput),
        (Role.P0, {"key_e": b"x" * 32}, InconsistentInput),
        (Role.P2, {"key_d": b"x" * 32}, ConfigError),
        (Role.P1, {"key_d": b"x"}, ConfigError),
    ],
)
def test_parties_told_different_things(ready: LocalParties, odd: Role, changed: dict[str, object], error: type[MoietyError]) -> None:
    with as_client(ready) as client:
        refused(client, error, lambda role: ask_for(client, role, **({"number": 1} | (changed if role is odd else {}))))  # type: ignore[arg-type]


def test_different_plans(ready: LocalParties) -> None:
    other = plans.mlp(rows=6)
    with as_owner(ready) as owner:
        owner.deploy("mlp", [other], {})
    for odd in PARTS:
        with as_client(ready) as client:
            hashes = {role: other.hash if role is odd else plans.mlp().hash for role in PARTS}
            refused(client, PlanMismatch, lambda role, hashes=hashes: ask_for(client, role, 1, plan=hashes[role]), match="something else")


@pytest.mark.parametrize("part", ["nonces", "counters"])
@pytest.mark.parametrize("party", range(3))
def test_rule_6_an_owner_changes_what_a_party_adds_to_the_session_id(
    ready: LocalParties, monkeypatch: pytest.MonkeyPatch, party: int, part: str
) -> None:
    """With numbers of the owner's choice a session could be opened twice under the same masks; the party whose they are refuses."""

    def changed(nonces: tuple[bytes, ...], counters: tuple[int, ...]) -> Roster:
        said: dict[str, list[Any]] = {"nonces": list(nonces), "counters": list(counters)}
        said[part][party] = bytes(32) if part == "nonces" else counters[party] - 1
        return msgspec.convert(said, Roster)

    with monkeypatch.context() as patched:
        patched.setattr(session, "Roster", changed)
        with pytest.raises(ReuseRefused, match=f"changed what party{party} adds"):
            as_client(ready)
    with as_client(ready) as client:
        client.run("mlp", plans.mlp(), plans.words(np.ones((4, 16))))


def alter(peer: str, frame: int, at: int) -> Callable[..., object]:
    """Flip a bit of the words that one party gets: TLS protects them again afterwards, so only the protocol can notice."""
    return lambda link, purpose: FaultyChannel.once(link, f"client#{frame}:lie={at}") if link.peer == peer else link


@pytest.mark.parametrize("peer", ["party1", "party2"])
def test_inconsistent_input(ready: LocalParties, peer: str) -> None:
    with as_client(ready, wrap=alter(peer, 3, 40)) as client, pytest.raises(InconsistentInput):  # Open, Roster, Run, then the words
        client.run("mlp", plans.mlp(), plans.words(np.ones((4, 16))))


@pytest.mark.parametrize("peer", ["party1", "party2"])
def test_inconsistent_weights(ready: LocalParties, peer: str) -> None:
    with as_owner(ready, wrap=alter(peer, 4, 60)) as owner, pytest.raises(InconsistentInput, match="different weights"):
        owner.deploy("fresh", [plans.mlp()], plans.mlp_weights())  # Open, Roster, Ask, Deploy, then the words
    with as_owner(ready) as owner:
        assert owner.holding("fresh").weights == {}


def test_manifests(ready: LocalParties) -> None:
    huge = (Tensor("w", (1 << 40, 1 << 20), 12, False),)
    for tensors, error in [
        (huge, PolicyRefused),
        ((Tensor("w", (2, 2, 2), 12, True),), InputError),
        ((Tensor("w", (2,), 99, False),), InputError),
        ((Tensor("w", (2,), 1, False),) * 2, InputError),
        ((Tensor("w", (-2,), 1, False),), FrameError),
    ]:
        with as_owner(ready) as owner:
            message = Deploy("m", 1, tensors, key_d=b"d" * 32)
            refused(owner, error, lambda role, message=message: say(owner.session.send[role], message), to=[Role.P1])


def test_nonsense_instead_of_a_command(ready: LocalParties) -> None:
    with as_client(ready) as client:
        refused(client, FrameError, lambda role: client.session.send[role].send(Kind.CONTROL, [b"\xc1nonsense"]), to=[Role.P0], of=Role.P0)


def test_impostor(ready: LocalParties, tmp_path: object) -> None:
    impostor = create_identity(CLIENT, str(tmp_path) + "/identity")
    with pytest.raises(IdentityError):
        open_session(ready.directory, impostor, deadlines=ready.deadlines)


def test_parties_do_not_take_owners_for_parties(ready: LocalParties) -> None:
    link = dial(ready.identity(MODEL_OWNER), ready.directory.compute(Role.P1), purpose="dealt", session=b"x" * 16, deadline_s=5)
    with pytest.raises(MoietyError, match="MOI-403"):
        link.receive_message(Kind.CONTROL, deadline_s=5, awaited="a refusal")
    link.close()
    assert "may not connect" in ready.log(PARTIES[1])
