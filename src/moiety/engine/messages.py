"""What members of a session say to each other besides the frames of a run: small tagged structures in CONTROL frames."""

from typing import Annotated, Any, Final, TypeVar

import msgspec

from moiety.compile.plan import Weight
from moiety.engine.report import Report, Timeline
from moiety.errors import FrameError
from moiety.net import Kind, Link

VERSION: Final = 1
MESSAGE_LIMIT: Final = 16 << 20
PLAN_LIMIT: Final = 1 << 30

Secret = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
PlanHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Message(msgspec.Struct, frozen=True, tag=True):
    """One of the messages; every kind says who sends it."""

    def __repr__(self) -> str:  # some carry keys: none is ever printed
        return f"<{type(self).__name__}>"


class Open(Message, frozen=True):
    """Owner: begin a session with these three parties (P0, P1, P2)."""

    version: int
    parties: tuple[Text, Text, Text]


class Here(Message, frozen=True):
    """Party: what I add to the session id."""

    nonce: Secret
    counter: Number


class Roster(Message, frozen=True):
    """Owner: what everybody adds to the session id; nonces of P0, P1, P2 and the owner."""

    nonces: tuple[Secret, Secret, Secret, Secret]
    counters: tuple[Number, Number, Number]


class Ready(Message, frozen=True):
    """Party: my channels stand, and this is the session id that I computed."""

    session: Digest


class Greeting(Message, frozen=True):
    """Party to party, first thing on a channel: the session id, a secret for the pair key, and a number of my process's own."""

    session: Digest
    secret: Secret
    life: Number


class Ask(Message, frozen=True):
    """Owner: tell me what you hold of this model."""

    model: Text


class Holding(Message, frozen=True):
    """Party: shared weights, each with the digest of its sharing, and hashes of plans."""

    weights: dict[str, Digest]
    plans: tuple[PlanHash, ...]
    seals: dict[str, Digest] = {}
    """By weight, as their owner gave them (``engine/seals.py``)."""
    serves: dict[PlanHash, Digest] = {}
    """By plan, what calls it takes (``Plan.serves``)."""


class Tensor(msgspec.Struct, frozen=True):
    """A weight that is about to be shared."""

    name: Annotated[str, msgspec.Meta(max_length=512)]
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    fraction: int
    packed: bool
    clear: int = 0
    """Octets of each integer where P1 is told it, instead of a share; 0 where it is not."""

    @classmethod
    def of(cls, weight: Weight) -> "Tensor":
        """What a plan reads."""
        return cls(weight.name, weight.shape, weight.fraction, weight.packed, weight.clear)


class Expect(Message, frozen=True):
    """Owner: I am compiling this model, whose weights have about so many words; set memory aside meanwhile."""

    model: Text
    words: Number
    clear: Number = 0
    """Octets in which P1 will probably be told most of them, see :class:`Tensor`."""


class Deploy(Message, frozen=True):
    """Owner: masks of these weights come from streams D (P0, P1) and E (P0, P2); masked words follow to P1 and P2."""

    model: Text
    number: Number
    tensors: tuple[Tensor, ...]
    replace: bool = False
    """Forget what was held under this name once the new weights are here."""
    key_d: bytes = b""
    key_e: bytes = b""


class Supply(Message, frozen=True):
    """Owner: while this session lasts I stream these weights into every run that reads them; masks as for ``Deploy``."""

    model: Text
    number: Number
    tensors: tuple[Tensor, ...]
    key_d: bytes = b""
    key_e: bytes = b""


class Want(Message, frozen=True):
    """P1 and P2: a run begins here that reads the weights of this session, in the order of that plan."""

    run: Digest
    plan: PlanHash


class Pass(Message, frozen=True):
    """Owner: the weights for that run follow."""

    run: Digest


class Keep(Message, frozen=True):
    """Owner: all three parties have these weights; from now on they count. Each has its seal, in the order of the manifest."""

    seals: tuple[Digest, ...] = ()


class AddPlan(Message, frozen=True):
    """Owner: the plan with this hash follows."""

    model: Text
    hash: PlanHash


class Fetch(Message, frozen=True):
    """Owner: send me the plan with this hash."""

    model: Text
    hash: PlanHash


class Run(Message, frozen=True):
    """Owner: run a plan. The keys of the input streams are given to those who hold them."""

    number: Number
    model: Text
    plan: PlanHash
    position: Number | None = None
    key_d: bytes = b""
    key_e: bytes = b""
    trace: bool = False
    """Tell your timeline, too, after the report."""


class Agreement(Message, frozen=True):
    """Party to party, before anything that counts: a digest of what we are about to do, and of the input stream we share."""

    subject: Digest
    stream: bytes = b""


class Fine(Message, frozen=True):
    """Party: done as asked."""


class Done(Message, frozen=True):
    """Party: the run is over."""

    report: Report


class Timed(Message, frozen=True):
    """Party: where the run that is over spent its time here."""

    timeline: Timeline


class Close(Message, frozen=True):
    """Owner: the session ends in good order."""


Command = Ask | Expect | Deploy | Supply | AddPlan | Fetch | Run | Close
M = TypeVar("M")
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def say(link: Link, message: Message) -> None:
    """Send a message. Raises as ``Link.send``."""
    link.send(Kind.CONTROL, [_ENCODER.encode(message)])


def hear_command(link: Link, deadline_s: float) -> Command:
    """The owner's next command. Raises as ``hear``."""
    command: Command = hear(link, Command, deadline_s=deadline_s, awaited="the owner's next command")  # type: ignore[arg-type]
    return command


def hear_pass(link: Link, deadline_s: float) -> Pass | Close:
    """What an owner says who streams weights. Raises as ``hear``."""
    said: Pass | Close = hear(link, Pass | Close, deadline_s=deadline_s, awaited="weights for a run")  # type: ignore[arg-type]
    return said


def hear(link: Link, wanted: type[M], *, deadline_s: float, awaited: str) -> M:
    """The next message, which must be a ``wanted`` (a class or a union). Raises FrameError on another, and as ``Link.receive``."""
    decoder = _DECODERS.get(wanted)
    if decoder is None:
        decoder = _DECODERS[wanted] = msgspec.msgpack.Decoder(wanted)
    data = link.receive_message(Kind.CONTROL, deadline_s=deadline_s, awaited=awaited, limit_bytes=MESSAGE_LIMIT)
    try:
        message: M = decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise FrameError(
            f"from {link.peer}, awaiting {awaited}: another message came ({error}); run the same release of moiety everywhere"
        ) from None
    return message
