"""How many different things there were: exactly while they are few, by HyperLogLog when they are many.

HyperLogLog: Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog: the analysis of a near-optimal cardinality estimation
algorithm" (2007). The number is read from it as Ertl has it, "New cardinality estimation algorithms for HyperLogLog
sketches" (2017), algorithm 6: without bias at any size, and without the tables of corrections that others need.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from hashlib import blake2b

PRECISION = 12
REGISTERS = 1 << PRECISION
STANDARD_ERROR = math.sqrt(3 * math.log(2) - 1) / math.sqrt(REGISTERS)  # 1.04 / 64: 1.6 %
MOST_EXACT = 1024

_BITS = 64 - PRECISION
_REST = (1 << _BITS) - 1
_ALPHA = 1 / (2 * math.log(2))
_EXACT, _ESTIMATED = b"e", b"h"


def hash_of(text: str) -> int:
    """64 bits, uniformly distributed and the same in every process; the text cannot be read from them."""
    return int.from_bytes(
        blake2b(text.encode(errors="surrogatepass"), digest_size=8, person=b"sessiondb usage").digest(), "big"
    )


class HyperLogLog:
    """A sketch of 4,096 registers: the number of different hashes added, with a standard error of 1.6 %."""

    __slots__ = ("registers",)

    def __init__(self, registers: bytes | None = None) -> None:
        self.registers = bytearray(REGISTERS) if registers is None else bytearray(registers)

    def add(self, hash_: int) -> None:
        """Add 64 bits: the first twelve choose the register, which keeps the longest row of zeros among the rest."""
        index = hash_ >> _BITS
        rank = _BITS + 1 - (hash_ & _REST).bit_length()
        if rank > self.registers[index]:
            self.registers[index] = rank

    def merge(self, other: HyperLogLog) -> None:
        """As if all that was added to ``other`` had been added here too."""
        self.registers = bytearray(map(max, self.registers, other.registers))

    def estimate(self) -> float:
        """How many different hashes were added; infinitely many, where no register could grow any more."""
        counts = [0] * (_BITS + 2)
        for rank in self.registers:
            counts[rank] += 1
        z = REGISTERS * _tau(1 - counts[_BITS + 1] / REGISTERS)
        for rank in range(_BITS, 0, -1):
            z = (z + counts[rank]) / 2
        z += REGISTERS * _sigma(counts[0] / REGISTERS)
        return _ALPHA * REGISTERS * REGISTERS / z if z else math.inf


def _sigma(x: float) -> float:
    """What registers that are still empty say; for few hashes this is linear counting."""
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    """What registers that can grow no more say."""
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = math.sqrt(x)
        before = z
        y /= 2
        z -= (1 - x) ** 2 * y
    return z / 3


class Distinct:
    """A number of different hashes: exact up to 1,024, a ``HyperLogLog`` above. Takes 8 KB at most."""

    __slots__ = ("_exact", "_sketch")

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._exact: set[int] = set()
        self._sketch: HyperLogLog | None = None
        for hash_ in hashes:
            self.add(hash_)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._exact) if self._sketch is None else round(min(self._sketch.estimate(), 2.0**63))

    @property
    def is_exact(self) -> bool:
        """Whether it is counted and not estimated."""
        return self._sketch is None

    def add(self, hash_: int) -> None:
        """Add 64 bits."""
        if self._sketch is not None:
            self._sketch.add(hash_)
            return
        self._exact.add(hash_)
        if len(self._exact) > MOST_EXACT:
            self.estimate()

    def discard(self, hash_: int) -> bool:
        """Take ``hash_`` out, where each is known by itself; whether it was there. A sketch names nobody."""
        if hash_ not in self._exact:
            return False
        self._exact.discard(hash_)
        return True

    def merge(self, other: Distinct) -> None:
        """As if all that was added to ``other`` had been added here too."""
        if other._sketch is not None:
            self.estimate()
        if self._sketch is None:
            self._exact |= other._exact
            if len(self._exact) > MOST_EXACT:
                self.estimate()
        elif other._sketch is not None:
            self._sketch.merge(other._sketch)
        else:
            for hash_ in other._exact:
                self._sketch.add(hash_)

    def estimate(self) -> None:
        """Be a sketch from now on."""
        if self._sketch is None:
            self._sketch = HyperLogLog()
            for hash_ in self._exact:
                self._sketch.add(hash_)
            self._exact = set()

    def encode(self) -> bytes:
        """It as bytes; the same for equal ones."""
        if self._sketch is not None:
            return _ESTIMATED + self._sketch.registers
        if not self._exact:
            return b""
        return _EXACT + struct.pack(f">{len(self._exact)}Q", *sorted(self._exact))

    @classmethod
    def decode(cls, data: bytes) -> Distinct:
        """What ``encode`` has made. Raises ``ValueError`` for anything else."""
        made = cls()
        kind, rest = data[:1], data[1:]
        if kind == _ESTIMATED and len(rest) == REGISTERS and max(rest) <= _BITS + 1:
            made._sketch = HyperLogLog(rest)
        elif kind == _EXACT and len(rest) % 8 == 0 and len(rest) <= 8 * MOST_EXACT:
            made._exact = set(struct.unpack(f">{len(rest) // 8}Q", rest))
        elif data:
            raise ValueError("these bytes are no set of hashes")
        return made
