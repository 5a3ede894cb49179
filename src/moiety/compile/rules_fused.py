"""Lowering of a chain of element-wise operations as one table."""

import numpy as np

from moiety.compile.fuse import Composed
from moiety.compile.lower import Call, rule
from moiety.compile.rules_functions import ACTIVATION, activated
from moiety.compile.tables import Function
from moiety.compile.values import Secret
from moiety.errors import PlanError
from moiety.mpc.functions import activations

WANTED = ACTIVATION._replace(index_bits=9)
"""A dealt one-hot of 64 bytes an element is about what a product and its truncation send: where it takes more, they are better."""

KNOWN: dict[str, tuple[Function, ...]] = {"gelu": (activations.gelu, activations.gelu_tanh), "silu": (activations.silu,)}
PROBE = np.linspace(-12.0, 12.0, 193)


@rule(Composed)
def composed(call: Call) -> Secret:
    """The whole chain by one look-up. Well-known activations go by their name, so that a variant can be chosen for them.

    Raises PlanError where no table serves, or where its operations are cheaper one by one.
    """
    x, f = call.args
    if not isinstance(x, Secret):
        raise PlanError(f"{f.__name__} in {call.builder.module} is not of a plain secret")
    close = ((name, g) for name, functions in KNOWN.items() for g in functions if np.allclose(f(PROBE), g(PROBE), atol=1e-6))
    name, function = next(close, ("composed", f))
    return activated(call, name, function, WANTED)
