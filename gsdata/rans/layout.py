"""What a section holds: equally long streams of codes, each code split into byte planes (FORMAT.md, "Streams")."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class Plane(NamedTuple):
    """One byte of every code of a stream: ``bits`` of them in use, from bit ``shift`` of the code on."""

    stream: int
    shift: int
    bits: int


@dataclass(frozen=True)
class Layout:
    """The streams of a section, one after another.

    Attributes:
        count: codes of each stream.
        streams: (name, bits of a code) of each; 1 to 16 bits.
    """

    count: int
    streams: tuple[tuple[str, int], ...]

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """The byte planes in their order: one up to 8 bits, else the low bytes and then the high ones."""
        planes = []
        for number, (_, bits) in enumerate(self.streams):
            planes.append(Plane(number, 0, min(bits, 8)))
            if bits > 8:
                planes.append(Plane(number, 8, bits - 8))
        return tuple(planes)

    @property
    def raw_size(self) -> int:
        """Bytes before compression."""
        return self.count * sum(1 if bits <= 8 else 2 for _, bits in self.streams)
