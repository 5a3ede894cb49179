"""Measured ranges as a file, and what about them is suspicious: a range that the next examples will leave spoils answers."""

import operator
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from moiety.compile.calibrate import Range, Ranges, join, sites
from moiety.compile.capture import Captured
from moiety.errors import ConfigError

FORMAT: Final = 1
FAR: Final = 4.0
"""An example whose bound is so many times the usual one, and beyond the margin of all but one other, is an outlier."""
DECADES: Final = 1e6
"""A norm's variance that varies by more needs several levels of tables."""
GETITEM: Final = str(operator.getitem)
"""One of several results of an operation: a range without a meaning of its own."""
FEW: Final = 8
"""Fewer examples than these say little about those to come."""


class File(msgspec.Struct, forbid_unknown_fields=True):
    """A ranges file. ``model``: the name under which it was measured."""

    moiety: str
    format: int
    model: str
    examples: int
    ranges: Ranges


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The range of one operation of the user's model, margin not included. ``typical``: the median example's bound; ``example``: the
    one with the largest; ``suspicions``: what makes the range doubtful."""

    site: str
    module: str
    operation: str
    low: float
    high: float
    spread: float
    typical: float
    example: int
    suspicions: tuple[str, ...] = ()


def save(path: Path, ranges: Ranges, *, model: str, examples: int) -> None:
    """Write a ranges file. Nothing in it is secret but what it tells about the weights, as the plan will."""
    file = File("ranges", FORMAT, model, examples, ranges)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")


def load(path: Path) -> File:
    """Read a ranges file. Raises ConfigError."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=File)
    except OSError as error:
        raise ConfigError(f"the ranges file {path} cannot be read ({error.strerror}); make one with moiety calibrate") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no ranges file ({error}); make one with moiety calibrate") from None
    if (file.moiety, file.format) != ("ranges", FORMAT):
        raise ConfigError(f"{path} is a {file.moiety} file of format {file.format}; make one with moiety calibrate")
    return file


def missing(captured: Captured, ranges: Ranges, known: Ranges) -> list[str]:
    """Ranges of a model's operations that are not among the ``known`` ones, which may be another model's. ``ranges`` holds both."""
    own = set(sites(captured).values())
    return [key for key in ranges if "|".join(key.split("|")[:3]) in own and key not in known]


def judge(each: Sequence[Ranges], margin: float) -> list[Site]:
    """The joined ranges of examples that were measured one by one, in the order of the model.

    Two tests need no threshold of their own: every quarter of the examples is held against the ranges of the others, with their
    margin; and an example is compared with the usual one.
    """
    quarters = [joined(each[start::4]) for start in range(4)]
    return [
        _site(site, found, [one.get(site) for one in each], [quarter.get(site) for quarter in quarters], margin)
        for site, found in joined(each).items()
        if GETITEM not in site
    ]


def joined(each: Sequence[Ranges]) -> Ranges:
    """The ranges of all examples together."""
    out = Ranges()
    for found in each:
        out = join(out, found)
    return out


def _site(site: str, found: Range, seen: Sequence[Range | None], quarters: Sequence[Range | None], margin: float) -> Site:
    bounds = [one.bound if one else 0.0 for one in seen]
    typical = statistics.median(bounds)
    module, operation, what = [*site.split("|"), "", "", ""][:3] if "|" in site else ("", "input or cache", site)
    suspicions = []
    if len(bounds) >= FEW and found.bound > max(FAR * typical, margin * sorted(bounds)[-3]) > 0:
        suspicions.append(f"outlier: example {bounds.index(max(bounds))} reaches {found.bound / typical:.1f} times the usual bound")
    *_, others, largest = sorted(quarter.bound if quarter else 0.0 for quarter in quarters)
    if len(bounds) >= FEW and largest > margin * others > 0:
        suspicions.append("grows: a quarter of the examples leaves the range of the others, margin included; measure on more")
    if site.endswith("|variance") and found.high > DECADES * max(found.low, 1e-12):
        suspicions.append("wide: the variance spans more than six decades; its tables take more rounds")
    return Site(
        site=site,
        module=module,
        operation=operation if "|" in site else what,
        low=found.low,
        high=found.high,
        spread=found.spread,
        typical=typical,
        example=bounds.index(max(bounds)),
        suspicions=tuple(suspicions),
    )
