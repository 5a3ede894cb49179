"""Values of which both a truncation and the sum of squares are wanted, as by every norm."""

from dataclasses import replace

from moiety.compile.builder import Builder
from moiety.compile.choose import Form
from moiety.compile.values import Secret
from moiety.mpc.ops import OPS
from moiety.mpc.party import Party
from moiety.mpc.share import Share


def truncated_squares(b: Builder, x: Secret, fraction: int) -> tuple[Secret, int]:
    """x at no more than that fraction, and the sums of its squares over the last axis, kept as 1."""
    if x.fraction > fraction and b.form("truncation and squares", _forms(x, fraction)) == "together":
        axis, n = len(x.shape) - 1, x.shape[-1]
        both = b.emit("rescale_and_square", x.node, fraction=fraction)
        squares = b.emit("cut", both, axis=axis, start=n, stop=n + 1)
        cut = b.emit("cut", both, axis=axis, start=0, stop=n)
        b.stands_for(cut, "rescale", x.node, fraction=fraction)
        return replace(x, node=cut, fraction=fraction), b.emit("as_fraction", squares, fraction=2 * fraction)
    x = b.rescaled(x, fraction)
    return x, b.emit("sum_of_squares", x.node)


def _forms(x: Secret, fraction: int) -> dict[str, Form]:
    """One after the other, or in one round for more bytes."""
    given = Share(x.shape, x.fraction)

    async def apart(party: Party) -> None:
        await OPS["sum_of_squares"](party, await OPS["rescale"](party, given, fraction=fraction))

    return {"apart": apart, "together": lambda party: OPS["rescale_and_square"](party, given, fraction=fraction)}
