"""What a role can do inside a protocol.

Pads, widths and addresses belong to this class, so that every op is clean by construction:

* a word to P1 is padded by key B, a word to P2 by key A: never by a key that its receiver holds;
* a pad has the full width of the ring in which the word travels, and is drawn at an address used nowhere else;
* P0 only deals: nothing here lets it receive from P1 or P2.

What :meth:`Party.deal_alike` tells both evaluators has no such pad: who calls it argues what may be in it.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

import numpy as np

from moiety.errors import ProtocolMisuse
from moiety.mpc.rounds import SILENCE, Address, Role, Round, Scope, Spec, Word, Words, exchange
from moiety.mpc.share import Share, difference, dtype_of, total, wrap


class Kind(IntEnum):
    """What a draw is for; part of its address."""

    OUT_MASK = 1
    DEALT = 2
    ONE_HOT = 3
    TABLE_PAD = 4
    BIT_PAD = 5
    ZERO_SHARE = 6
    INPUT_MASK = 7
    PERMUTATION = 8
    SHUFFLE_PAD = 9
    POINT_ROOT = 10
    POINT_KEY = 11
    POINT_CORRECTION = 12


class Key(IntEnum):
    """Who shares a random stream: A P0-P1, B P0-P2, C P1-P2; the client's two input streams D (with P0, P1) and E (with P0, P2)."""

    A = 0
    B = 1
    C = 2
    D = 3
    E = 4


class Draws(Protocol):
    """Addressed randomness: the same (key, address) gives every holder of the key the same elements of the ring of ``spec``."""

    def words(self, key: Key, address: Address, spec: Spec) -> Words: ...


class Dealer(Protocol):
    """The dealt stream: P0 puts, the receiver takes at the same address."""

    def put(self, receiver: Role, address: Address, spec: Spec, value: Words) -> None: ...

    def take(self, receiver: Role, address: Address, spec: Spec) -> Words: ...


@lru_cache(maxsize=1 << 16)
def receiver_of(address: Address) -> Role:
    """Which evaluator receives what is dealt at an address, while the other draws its share.

    The parity of all one bits of the address: no regular order of ops, as in equal layers, then favours one link for long.
    """
    ones = sum(number.bit_count() for number in (*address.path, address.serial))
    return Role.P2 if ones % 2 == 0 else Role.P1


@lru_cache(maxsize=1 << 12)
def _expected(sender: Role, receiver: Role, specs: tuple[Spec, ...]) -> tuple[Word, ...]:
    return tuple([Word(sender, receiver, spec) for spec in specs])


class Party:
    """One role of one run. ``scope`` is set by the scheduler around every step."""

    def __init__(self, role: Role, draws: Draws, dealer: Dealer) -> None:
        self.role, self._draws, self._dealer = role, draws, dealer
        self.scope = Scope((0,))

    @property
    def evaluates(self) -> bool:
        """True for P1 and P2, who hold masked values and talk."""
        return self.role in (Role.P1, Role.P2)

    @property
    def helps(self) -> bool:
        """True for P0, who knows every mask and deals."""
        return self.role is Role.P0

    @property
    def leads(self) -> bool:
        """True for P1, the evaluator whose additive share takes public constants."""
        return self.role is Role.P1

    def _own(self, key: Key, address: Address, spec: Spec) -> Words:
        return self._draws.words(key, address, spec)

    def draw(self, kind: Kind, shape: tuple[int, ...], bits: int = 64, *, xor: bool = False) -> Words | None:
        """A fresh mask: P1's part from key A, P2's from key B, P0 gets their sum (or xor). Others get None."""
        address, spec = self.scope.address(kind), Spec(shape, bits)
        match self.role:
            case Role.P1:
                return self._own(Key.A, address, spec)
            case Role.P2:
                return self._own(Key.B, address, spec)
            case Role.P0:
                a, b = self._own(Key.A, address, spec), self._own(Key.B, address, spec)
                return a ^ b if xor else total(a, b, bits)
        return None

    def draw_each(self, kind: Kind, shape: tuple[int, ...], bits: int = 64) -> tuple[Words | None, Words | None]:
        """As :meth:`draw`, but P0 gets both parts, P1 only the first and P2 only the second."""
        address, spec = self.scope.address(kind), Spec(shape, bits)
        one = self._own(Key.A, address, spec) if self.role in (Role.P0, Role.P1) else None
        two = self._own(Key.B, address, spec) if self.role in (Role.P0, Role.P2) else None
        return one, two

    def draw_for(self, holder: Role, kind: Kind, shape: tuple[int, ...], bits: int = 64) -> Words | None:
        """A draw that one evaluator and P0 know, and the other evaluator does not. Others get None."""
        address = self.scope.address(kind)
        if self.role not in (holder, Role.P0):
            return None
        return self._own(Key.A if holder is Role.P1 else Key.B, address, Spec(shape, bits))

    def permutation(self, holder: Role, shape: tuple[int, ...]) -> Words | None:
        """For every row (last axis) a permutation that one evaluator and P0 know: the order of 128-bit draws.

        Further from uniform by less than n^2 / 2^128 for rows of n, for that is how likely two of them are equal.
        """
        words = self.draw_for(holder, Kind.PERMUTATION, (2, *shape))
        return None if words is None else np.lexsort((words[0], words[1]), axis=-1)

    def zero_share(self, shape: tuple[int, ...], bits: int = 64) -> Words | None:
        """Words of P1 and P2 that sum to zero, from key C: re-randomises additive shares before an outsider sees them."""
        address = self.scope.address(Kind.ZERO_SHARE)
        if not self.evaluates:
            return None
        pad = self._own(Key.C, address, Spec(shape, bits))
        return pad if self.leads else wrap(-pad, bits)

    def deal(
        self,
        shape: tuple[int, ...],
        make: Callable[[], Words],
        bits: int = 64,
        *,
        kind: Kind = Kind.DEALT,
        xor: bool = False,
        to: Role | None = None,
    ) -> Words | None:
        """P0 deals additive (or xor) shares of ``make()``, which only P0 calls; its value may depend on masks only.

        One evaluator draws its share, the other receives ``value - share``; which one alternates, to balance the links, if not said.
        Returns the evaluator's share; at P0 the share of P1 (the table protocol needs it); None elsewhere.
        """
        address, spec = self.scope.address(kind), Spec(shape, bits)
        receiver = to or receiver_of(address)
        key = Key.A if receiver is Role.P2 else Key.B
        match self.role:
            case Role.P0:
                value, drawn = make(), self._own(key, address, spec)
                if value.shape != shape:
                    raise ProtocolMisuse(f"dealt value has shape {value.shape}, the op announced {shape}")
                rest = value ^ drawn if xor else difference(value, drawn, bits)
                self._dealer.put(receiver, address, spec, rest)
                return drawn if receiver is Role.P2 else rest
            case Role.P1 | Role.P2:
                return self._dealer.take(self.role, address, spec) if self.role is receiver else self._own(key, address, spec)
        return None

    def deal_alike(self, kind: Kind, shape: tuple[int, ...], make: Callable[[], Words], bits: int = 64) -> Words | None:
        """P0 tells both evaluators ``make()``, which only P0 calls, as it is; all three return it, others None.

        Unlike what :meth:`deal` yields this is no share: either evaluator may know it.
        """
        spec, addresses = Spec(shape, bits), {role: self.scope.address(kind) for role in (Role.P1, Role.P2)}
        if self.role in addresses:
            return self._dealer.take(self.role, addresses[self.role], spec)
        if self.role is not Role.P0:
            return None
        value = make()
        if value.shape != shape:
            raise ProtocolMisuse(f"dealt value has shape {value.shape}, the op announced {shape}")
        for receiver, address in addresses.items():
            self._dealer.put(receiver, address, spec, value)
        return value

    async def swap(self, *mine: Words | None, specs: tuple[Spec, ...]) -> list[Words]:
        """P1 and P2 exchange one array for each spec, reduced to its ring, in one wave; the others are silent and get an empty list."""
        if not self.evaluates:
            await exchange(SILENCE)
            return []
        other, send = Role.P2 if self.role is Role.P1 else Role.P1, []
        for spec, value in zip(specs, mine, strict=True):
            if value is None or value.shape != spec.shape or value.dtype != dtype_of(spec.bits):
                raise ProtocolMisuse(f"an op announced {spec} but speaks {None if value is None else (value.shape, value.dtype)}")
            send.append(Word(self.role, other, spec, wrap(value, spec.bits)))
        return await exchange(Round(tuple(send), _expected(other, self.role, specs)))

    async def tell(self, sender: Role, value: Words | None, spec: Spec) -> Words | None:
        """One evaluator speaks to the other, in one wave; both get the array, the others are silent and get None."""
        listener = Role.P2 if sender is Role.P1 else Role.P1
        word = Word(sender, listener, spec)
        if self.role is listener:
            return (await exchange(Round((), (word,))))[0]
        said = None if value is None or self.role is not sender else wrap(value, spec.bits)
        await exchange(SILENCE if said is None else Round((word._replace(value=said),)))
        return said

    def local(self, compute: Callable[[], Words]) -> Words | None:
        """Evaluate on P1 and P2 only."""
        return compute() if self.evaluates else None

    def additive(self, x: Share) -> Words:
        """This evaluator's additive share of x: ``m - l1`` at P1, ``-l2`` at P2."""
        if x.mask is None or x.masked is None:
            raise ProtocolMisuse(f"{x!r} has no mask at {self.role.name}; it was cut locally and can only be compared or looked up")
        share: Words = np.subtract(x.masked, x.mask) if self.leads else np.negative(x.mask)  # operators warn of scalars that wrap
        return share


class ShapeParty(Party):
    """No role and no values: records exactly what every role would say, so a cost can never drift from the protocol."""

    def __init__(self) -> None:
        self.scope = Scope((0,))
        self.dealt: list[tuple[Address, Word]] = []
        self.draws: list[tuple[Address, Spec]] = []

    role = None  # type: ignore[assignment]

    def draw(self, kind: Kind, shape: tuple[int, ...], bits: int = 64, *, xor: bool = False) -> Words | None:
        self.draws.append((self.scope.address(kind), Spec(shape, bits)))
        return None

    def draw_each(self, kind: Kind, shape: tuple[int, ...], bits: int = 64) -> tuple[Words | None, Words | None]:
        self.draws.append((self.scope.address(kind), Spec(shape, bits)))
        return None, None

    def draw_for(self, holder: Role, kind: Kind, shape: tuple[int, ...], bits: int = 64) -> Words | None:
        self.draws.append((self.scope.address(kind), Spec(shape, bits)))
        return None

    def zero_share(self, shape: tuple[int, ...], bits: int = 64) -> Words | None:
        self.draws.append((self.scope.address(Kind.ZERO_SHARE), Spec(shape, bits)))
        return None

    def deal(
        self,
        shape: tuple[int, ...],
        make: Callable[[], Words],
        bits: int = 64,
        *,
        kind: Kind = Kind.DEALT,
        xor: bool = False,
        to: Role | None = None,
    ) -> Words | None:
        address, spec = self.scope.address(kind), Spec(shape, bits)
        receiver = to or receiver_of(address)
        self.draws.append((address, spec))
        self.dealt.append((address, Word(Role.P0, receiver, spec)))
        return None

    def deal_alike(self, kind: Kind, shape: tuple[int, ...], make: Callable[[], Words], bits: int = 64) -> Words | None:
        self.dealt += [(self.scope.address(kind), Word(Role.P0, role, Spec(shape, bits))) for role in (Role.P1, Role.P2)]
        return None

    async def swap(self, *mine: Words | None, specs: tuple[Spec, ...]) -> list[Words]:
        both = ((Role.P1, Role.P2), (Role.P2, Role.P1))
        await exchange(Round(tuple(Word(a, b, spec) for a, b in both for spec in specs)))
        return []

    async def tell(self, sender: Role, value: Words | None, spec: Spec) -> Words | None:
        await exchange(Round((Word(sender, Role.P2 if sender is Role.P1 else Role.P1, spec),)))
        return None
