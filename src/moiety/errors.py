"""One family of errors. Every message says what happened, to which party, op or shape, and what to do next.

A message never contains a secret: no values, no shares, no keys. Every code has a page in ``docs/errors``.
"""

from typing import ClassVar


class MoietyError(Exception):
    """Base of every error moiety raises on purpose. ``code`` is stable; ``exit_status`` is what a command returns.

    ``transient``: the same request may succeed when it is made again, and making it again tells nobody anything about a secret.
    """

    code: ClassVar[str] = "MOI-000"
    exit_status: ClassVar[int] = 8
    transient: ClassVar[bool] = False

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.add_note(f"[{self.code}] `moiety explain {self.code}` says why, and what to do")  # in tracebacks only


class ConfigError(MoietyError):
    """A federation file, an option or a folder is not usable as given."""

    code = "MOI-100"
    exit_status = 2


class IdentityError(MoietyError):
    """A peer did not prove to be who the federation file says it is (wrong, expired or impostor certificate, wrong name)."""

    code = "MOI-200"
    exit_status = 3


class ChannelError(MoietyError):
    """A connection failed; the message names the peer and what was awaited."""

    code = "MOI-300"
    exit_status = 4
    transient = True


class PeerLost(ChannelError):
    """The peer closed or dropped the connection in mid-run."""

    code = "MOI-301"


class DeadlineExceeded(ChannelError):
    """Nothing came before the deadline; the message names peer, op, wave and age."""

    code = "MOI-302"


class FrameError(ChannelError):
    """A frame is not the one the plan announces (sequence, wave, layout, size, truncation or alteration)."""

    code = "MOI-303"


class AddressInUse(ChannelError):
    """The address to listen on is taken."""

    code = "MOI-304"
    transient = False


class PeerAborted(MoietyError):
    """A peer ended the run and said why; the text is the peer's redacted reason."""

    code = "MOI-305"
    exit_status = 4


class PeerStopping(ChannelError):
    """The peer is being stopped in good order: it takes no new session and ended this one between two runs."""

    code = "MOI-306"


class PlanError(MoietyError):
    """The compiled plan cannot be run."""

    code = "MOI-400"
    exit_status = 5


class UnsupportedOp(PlanError):
    """The model uses operations that have no private form; the message lists all of them with their place in the source."""

    code = "MOI-401"


class PlanMismatch(PlanError):
    """Parties hold different plans, or a run departs from the plan's wave table."""

    code = "MOI-402"


class NotDeployed(PlanMismatch):
    """A party does not hold the plan or the weights, for example because it was started anew; its owner must deploy again."""

    code = "MOI-406"


class NameTaken(PlanError):
    """Another model is deployed under the name: other weights, or another plan for the same inputs."""

    code = "MOI-407"


class PolicyRefused(PlanError):
    """The federation file does not allow what the plan or the request would reveal or do."""

    code = "MOI-403"


class LimitReached(PolicyRefused):
    """What is asked is allowed, but exceeds a limit or quota of the party: memory, sessions, runs a minute, answers a day."""

    code = "MOI-405"


class BudgetExceeded(PlanError):
    """Expected truncation failures exceed the budget that the user gave."""

    code = "MOI-404"


class InputError(MoietyError):
    """An input has a wrong shape or dtype, or holds NaN, infinity or a value outside the plan's range."""

    code = "MOI-500"
    exit_status = 6


class InconsistentInput(InputError):
    """The parties received different words for the same input; the run ended before any output."""

    code = "MOI-501"


class RangeViolation(MoietyError):
    """A value left its calibrated range during a run, so the answer would be meaningless."""

    code = "MOI-502"
    exit_status = 6


class ReuseRefused(MoietyError):
    """A run number was about to be used twice; masks would repeat, so the run is refused."""

    code = "MOI-600"
    exit_status = 7


class ProtocolMisuse(MoietyError):
    """A programming error in a protocol: wrong shape or ring, a second draw at one address, a branch on a secret."""

    code = "MOI-700"
    exit_status = 8


class AuditError(MoietyError):
    """An audit log is no whole chain, or cannot be written."""

    code = "MOI-800"
    exit_status = 9
