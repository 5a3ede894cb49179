"""Whether what is deployed under a name is what its owner is about to deploy. Seals tell the owner, and nobody else.

With every weight the parties keep its seal, ``HKDF(secret of the owner's identity, sharing, digest of the weight)``. Who has the weight
and the identity computes it again and compares. To a party it is 32 random bytes: the same weight has another seal in every sharing, and
a guess at a weight cannot be tried. The digest is made of GMAC tags, ten times as fast as SHA-256: nobody but who has the identity can
find two weights with the same, and nobody else ever sees one.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moiety import ring
from moiety.compile.plan import Plan
from moiety.engine.deploy import Weights
from moiety.engine.messages import Holding
from moiety.engine.pieces import floats

PURPOSE: Final = b"moiety seals of weights"
"""Of the owner's secret."""
RUN_BYTES: Final = 1 << 28
"""Of a tag."""
FRACTION: Final = re.compile(r"@\d+(?=[^@]*$)")


def content(source: Any, secret: bytes) -> bytes:
    """A digest of a weight, for who has the secret: its shape and numbers, in the order in which they lie. ``source`` as in ``Weights``."""
    array = floats(source)
    out = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    turned = array.ndim == 2 and array.flags.f_contiguous
    octets = np.ascontiguousarray(array.T if turned else array).reshape(-1).view(np.uint8).data
    gmac = AESGCM(ring.derive(secret, b"moiety content of weights")[:16])
    for number, start in enumerate(range(0, len(octets), RUN_BYTES)):
        out.update(gmac.encrypt(number.to_bytes(12, "little"), b"", octets[start : start + RUN_BYTES]))
    return out.digest()


def seal(secret: bytes, sharing: bytes, digest: bytes) -> bytes:
    """What the parties keep of a weight with this digest that was shared as ``sharing``."""
    return ring.derive(secret, b"moiety seal", sharing, digest)


def difference(held: Holding, plans: Sequence[Plan], weights: Weights, secret: bytes) -> str:
    """How what the parties hold differs from these plans and weights, in words; empty where it does not.

    A weight is compared with what was shared of it at another precision, too: other numbers mean another model.
    """
    mine = {_bare(name): name for name in weights}
    for name, sealed in held.seals.items():
        given = name if name in weights else mine.get(_bare(name))
        if given is not None and seal(secret, held.weights[name], content(weights[given], secret)) != sealed:
            return f"the weight {given!r} differs"
    if weights and held.weights and mine.keys().isdisjoint(map(_bare, held.weights)):
        return "none of its weights is the same"
    for plan in plans:
        rivals = [known for known, serves in held.serves.items() if serves == plan.serves and known != plan.hash]
        if rivals:
            return f"the plan {rivals[0][:12]}, which callers would go on using, serves the same inputs by other ranges or another program"
    return ""


def covers(weights: Weights, held: Mapping[str, bytes]) -> bool:
    """Whether nothing is held but these weights, at whatever precision."""
    return set(map(_bare, held)) <= set(map(_bare, weights))


def _bare(name: str) -> str:
    """The name of a weight without its fraction bits: what was encoded, not how."""
    return FRACTION.sub("", name)
