"""Plans for a federation in which the model's owner runs P1: it knows the matrices of linear layers, and computes with them as they are.

What else a plan reads of the owner's (embeddings, biases, convolutions, gains) stays shared.
"""

from collections.abc import Mapping

import msgspec
import torch

from moiety.compile import program
from moiety.compile.later import Later
from moiety.compile.plan import OCTETS, Plan, Weight
from moiety.errors import InputError
from moiety.mpc.rounds import Role


def hold(plan: Plan, weights: Mapping[str, torch.Tensor | Later], by: str = Role.P1.name) -> Plan:
    """The plan, where P1 knows the matrices that only linear layers read: other waves, other bytes, another line of leakage, another hash.

    ``weights``: the tensors behind them, which decide in how many octets their integers fit. Raises InputError unless ``by`` is P1.
    """
    if by != Role.P1.name:
        raise InputError(f"only P1 can hold weights, not {by!r}: the protocol gives P0 and P2 other parts (docs/security/rep3.md)")
    names = program.streamable(plan)
    made = tuple(msgspec.structs.replace(w, clear=_octets(w, weights[w.name])) if w.name in names else w for w in plan.weights)
    line = (
        f"P1 knows {len(names)} of the {len(made)} weights in the clear, so the model's owner must run it; all parties know in how many "
        "octets the numbers of each fit"
    )
    held = msgspec.structs.replace(plan, weights=made, leakage=(*plan.leakage, line))
    return msgspec.structs.replace(held, waves=program.wave_table(program.costs(held)))


def _octets(weight: Weight, tensor: torch.Tensor | Later) -> int:
    largest = _largest(tensor) * 2.0**weight.fraction + 1  # and what rounding adds
    return next((octets for octets in OCTETS if largest < 2 ** (8 * octets - 1)), OCTETS[-1])


def _largest(tensor: torch.Tensor | Later) -> float:
    """The largest magnitude, without a copy of the tensor."""
    if not tensor.numel():
        return 0.0
    if isinstance(tensor, Later):
        rows = torch.stack(torch.aminmax(tensor.tensor, dim=1)).abs().amax(0)
        return float((rows.double() * tensor.gain.double().abs()).max())
    return max(abs(float(end)) for end in torch.aminmax(tensor))
