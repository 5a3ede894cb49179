"""Addressed randomness: a keyed PRG in counter mode, read at addresses, never through a shared cursor."""

from collections.abc import Mapping

from moiety import ring
from moiety.mpc.party import Key
from moiety.mpc.rounds import Address, Spec, Words
from moiety.mpc.share import reduced


class KeyedDraws:
    """The streams one role holds for one run. Keys are fresh in every run: ``derive(pair key, run id, plan hash)``."""

    def __init__(self, keys: Mapping[Key, bytes]) -> None:
        self._streams = {key: ring.Prg(secret[:16]) for key, secret in keys.items()}

    def words(self, key: Key, address: Address, spec: Spec) -> Words:
        """Uniform over the ring at this address; uint8 for octets, else uint64."""
        stream = self._streams[key]
        if spec.bits == 8:
            return stream.octets(address.nonce(), spec.shape)
        return reduced(stream.words(address.nonce(), spec.shape), spec.bits)

    def __repr__(self) -> str:
        return f"<KeyedDraws {'+'.join(key.name for key in self._streams)}>"
