"""The plan: the compiled, immutable, hashed program that all parties of a run execute.

A plan is data only: nodes that name operations of :mod:`moiety.mpc.ops`, public integer constants, what comes in, what goes out
and to whom, and the wave table with the exact bytes of every round. Parties compare its hash before they send a byte of a run.
"""

import hashlib
from typing import Any

import msgspec
import numpy as np

from moiety.errors import PlanError
from moiety.mpc.rounds import Role, Words

FORMAT = 1
LINKS = (
    (Role.P1, Role.P2),
    (Role.P2, Role.P1),
    (Role.P0, Role.P1),
    (Role.P0, Role.P2),
    (Role.CLIENT, Role.P1),
    (Role.CLIENT, Role.P2),
    (Role.P1, Role.CLIENT),
    (Role.P2, Role.CLIENT),
)
"""Every link that may carry payload; the columns of the wave table. Nothing is ever sent to P0."""


OCTETS = (2, 4, 8)
"""What an integer of a matrix that P1 knows may take there."""


class Constant(msgspec.Struct, frozen=True, array_like=True):
    """Public 64-bit words. ``by_position``: the first axis is indexed by the run's public position, minus ``Plan.first_position``."""

    shape: tuple[int, ...]
    data: bytes
    by_position: bool = False

    @classmethod
    def of(cls, words: Words, *, by_position: bool = False) -> "Constant":
        little = np.ascontiguousarray(words).astype("<u8", copy=False)
        return cls(tuple(words.shape), little.tobytes(), by_position)

    def words(self) -> Words:
        return np.frombuffer(self.data, "<u8").astype(np.uint64).reshape(self.shape)


class Node(msgspec.Struct, frozen=True, array_like=True):
    """One operation. The sources ``input``, ``weight``, ``constant`` and ``state`` take their index into the plan's lists as ``index``."""

    op: str
    inputs: tuple[int, ...] = ()
    params: dict[str, Any] = {}


class Input(msgspec.Struct, frozen=True):
    """A secret input of the client. ``form``: ``fixed`` (real tensor at ``fraction``) or ``one_hot`` (indices below ``classes``)."""

    name: str
    shape: tuple[int, ...]
    form: str
    fraction: int = 0
    bound: float = 0.0
    classes: int = 0


class Weight(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor of the model owner, shared once. ``packed``: kept only as the right operand of products, shape (in, out)."""

    name: str
    shape: tuple[int, ...]
    fraction: int
    packed: bool
    clear: int = 0
    """Octets of the integers in which P1 knows it (:mod:`moiety.compile.hold`); 0 where nobody does."""


class State(msgspec.Struct, frozen=True):
    """Shares kept between runs of a session (a KV cache): ``rows`` along ``axis`` are read; node ``write`` is stored at the position."""

    name: str
    shape: tuple[int, ...]
    axis: int
    fraction: int
    write: int = -1


class Output(msgspec.Struct, frozen=True):
    """What the client alone receives: a ``reveal`` node, its fraction, and the bound outside which the client rejects the answer."""

    name: str
    node: int
    shape: tuple[int, ...]
    fraction: int
    bound: float
    form: str = "fixed"
    """What the words stand for: reals (``fixed``), whole numbers (``integer``) or zeros and ones (``boolean``)."""
    error: float | None = None
    """Largest absolute error against float to expect of any element, see :mod:`moiety.compile.error`; None where none is stated."""


class Lookup(msgspec.Struct, frozen=True, array_like=True):
    """A table of the plan, or what takes its place: where, which function, the real range it serves, and its measured error there."""

    module: str
    function: str
    low: float
    high: float
    error: float
    relative: bool = False
    """Whether the error is a share of the value."""

    def __str__(self) -> str:
        error = f"{self.error:.1e} of it" if self.relative else f"{self.error:.1e}"
        return f"{self.function} on [{self.low:.3g}, {self.high:.3g}] within {error}"


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A step that has several forms: where, which, for what link, and the seconds that each takes there, the chosen one first.

    ``places``: how many steps alike, of which ``module`` has the first, take it. ``whole``: they decide together, and the seconds are
    those of the whole run without its computing.
    """

    module: str
    step: str
    link: str
    seconds: dict[str, float]
    places: int = 1
    whole: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. ``modules``, ``lookups`` (where things come from in the user's model) and ``choices`` are for people: not hashed."""

    format: int = FORMAT
    protocol: str = "rep3"
    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...] = ()
    inputs: tuple[Input, ...] = ()
    weights: tuple[Weight, ...] = ()
    states: tuple[State, ...] = ()
    outputs: tuple[Output, ...] = ()
    flag: int = -1
    """Node that reveals the OR-ed out-of-range bit to the client, or -1."""
    first_position: int = 0
    positions: int = 0
    """How many public positions the plan serves; 0 when it has no position."""
    end: tuple[int, ...] = ()
    """Of a decoder: the tokens after which an answer is over."""
    waves: tuple[tuple[int, ...], ...] = ()
    """The wave table: bytes on each of LINKS, wave by wave."""
    expected_failures: float = 0.0
    """Expected number of gross truncation errors in one run; 0 when every truncation is failure-free."""
    leakage: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """Names of all inputs a caller gives, secret and public, in positional order."""
    public: tuple[tuple[str, str], ...] = ()
    """Public inputs and the digest of the value that this plan was compiled for."""
    structure: str = ""
    """The output's structure as JSON, leaves numbered in the order of ``outputs``."""
    modules: tuple[str, ...] = ()
    lookups: tuple[Lookup, ...] = ()
    choices: tuple[Choice, ...] = ()

    def encode(self) -> bytes:
        """The plan as it travels."""
        return msgspec.msgpack.encode(self)

    @property
    def opens(self) -> bool:
        """Whether a run of it tells the client anything."""
        return bool(self.outputs) or self.flag >= 0

    @property
    def serves(self) -> bytes:
        """A digest of the calls that it takes: plans of one model that agree in it are alternatives, of which a caller uses the first."""
        inputs, states = [(i.name, i.shape) for i in self.inputs], [(s.name, s.shape) for s in self.states]
        calls = (self.arguments, inputs, self.public, states, self.first_position, self.positions)
        return hashlib.sha256(msgspec.msgpack.encode(calls)).digest()

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical program, without labels."""
        bare = msgspec.structs.replace(self, modules=(), lookups=(), choices=())
        return hashlib.sha256(msgspec.msgpack.encode(bare, order="deterministic")).hexdigest()

    @classmethod
    def decode(cls, data: bytes) -> "Plan":
        """Read a plan. Raises PlanError when it is not one, or of another format."""
        try:
            plan = msgspec.msgpack.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise PlanError(f"this is not a plan: {error}") from None
        if plan.format != FORMAT:
            raise PlanError(f"the plan has format {plan.format}, this moiety reads format {FORMAT}; compile the model again")
        return plan
