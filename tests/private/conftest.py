"""A federation for this folder's tests, and the owner who deploys in it."""

from collections.abc import Iterator

import pytest

from moiety.engine.federation import Federation, connect
from moiety.engine.launch import CLIENT, MODEL_OWNER, LocalParties, start


@pytest.fixture(scope="module")
def parties() -> Iterator[LocalParties]:
    with start() as local:
        yield local


@pytest.fixture(scope="module")
def owner(parties: LocalParties) -> Iterator[Federation]:
    with connect(parties.federation, party=MODEL_OWNER) as federation:
        yield federation


@pytest.fixture(scope="module")
def client(parties: LocalParties) -> Iterator[Federation]:
    with connect(parties.federation, party=CLIENT) as federation:
        yield federation
