"""Plans of reference models, made again from stored captures: a change that alters a plan must say so.

If it is meant to: ``PYTHONPATH=src python -m tests.compile.replay`` writes ``reference_plans.json`` anew.
"""

import json

import msgspec
import pytest

from moiety.compile import program

from .replay import REFERENCE, fingerprint, plan_of

STORED = json.loads(REFERENCE.read_text())


@pytest.mark.parametrize("name", STORED)
def test_the_plan_is_the_one_on_record(name: str) -> None:
    plan, record = plan_of(STORED[name]), STORED[name]
    assert (len(plan.nodes), len(plan.waves), sum(map(sum, plan.waves))) == (record["nodes"], record["waves"], record["bytes"])
    assert fingerprint(plan) == record["fingerprint"]
    program.check_waves(plan)


def test_the_record_is_small_and_of_many_kinds() -> None:
    assert len(STORED) >= 12
    assert REFERENCE.stat().st_size < 100_000
    assert len({record["fingerprint"] for record in STORED.values()}) == len(STORED)


def test_lowering_twice_gives_the_same_bytes() -> None:
    assert plan_of(STORED["llama block"]).encode() == plan_of(STORED["llama block"]).encode()


def test_the_hash_ignores_labels_and_nothing_else() -> None:
    plan = plan_of(STORED["mlp"])
    replace = msgspec.structs.replace
    assert replace(plan, modules=(), lookups=()).hash == plan.hash
    assert type(plan).decode(plan.encode()).hash == plan.hash
    changed = {
        "nodes": plan.nodes[:-1],
        "constants": plan.constants[:-1],
        "inputs": (replace(plan.inputs[0], bound=1.0),),
        "weights": plan.weights[::-1],
        "outputs": (replace(plan.outputs[0], bound=1.0),),
        "waves": plan.waves[:-1],
        "flag": 0,
        "first_position": 1,
        "positions": 1,
        "leakage": (),
        "arguments": ("y",),
        "structure": '{"leaf": 1}',
        "expected_failures": 0.5,
        "public": (("mask", "0"),),
    }
    hashes = {replace(plan, **{field: value}).hash for field, value in changed.items()}
    assert len(hashes | {plan.hash}) == len(changed) + 1
