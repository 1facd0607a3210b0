"""Damage at random, for tests of readers: bytes, or what they mean, with checksums and lengths made right again or not.

    mutant = mutating.mutate(data, random.Random(0))

The same file and the same state of the generator give the same mutant.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from gsdata import forging
from gsdata.container import CRC, PREAMBLE, PREAMBLE_SIZE, RANS, SECTION, STORED, VERSION, ZSTD, ZSTD_MAGIC
from gsdata.errors import GsdError
from gsdata.mutating import codes, frames, header

Kind: TypeAlias = Literal["damaged", "repaired", "header", "codes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""damaged: bytes, as they are. repaired: bytes of one part, then lengths and checksums. header: values, keys and their forms.
codes: codes, counts or labels, then coded again. All but the first have right checksums."""


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        data: its bytes; now and then those of the good file.
        kind: how it was changed.
        whole_frames: whether its zstd frames are still those of an encoder. What is within a damaged frame readers may
            see differently: not every decoder checks the same.
    """

    data: bytes
    kind: Kind
    whole_frames: bool


def mutate(data: bytes, rng: random.Random, kind: Kind | None = None) -> Mutant:
    """A file made from another one.

    Args:
        data: a file; a good one for the kinds ``header`` and ``codes``.
        rng: where all choices come from.
        kind: how; None draws one: a quarter each.

    Raises:
        ValueError: the file is too broken for a change of that kind.
    """
    chosen: Kind = rng.choice(KINDS) if kind is None else kind
    try:
        if chosen == "header":
            return Mutant(_header(data, rng), chosen, True)
        if chosen == "codes":
            own, sections = _apart(data)
            own, sections = codes.changed(data, own, sections, rng)
            return Mutant(forging.put_together(header.pack(own), sections), chosen, True)
        if chosen == "repaired":
            changed, whole = _repaired(data, rng)
            return Mutant(changed, chosen, whole)
        return Mutant(_bytes(data, rng, anywhere=True), chosen, True)
    except GsdError as error:
        raise ValueError(f"no file to change its {chosen}: {error}") from None


@lru_cache(maxsize=256)
def _apart(data: bytes) -> tuple[dict[str, Any], forging.Sections]:
    return forging.take_apart(data)


def _header(data: bytes, rng: random.Random) -> bytes:
    own, sections = _apart(data)
    packed = header.changed(own, rng)
    # A reader has another list of keys for a minor version that is newer than its own.
    preamble: dict[str, Any] = {"minor": VERSION[1] + rng.choice([1, 100])} if rng.random() < 0.15 else {}
    if rng.random() < 0.2 and len(framed := forging.frame(packed)) < len(packed):
        return forging.put_together(framed, sections, flags=1, **preamble)
    return forging.put_together(packed, sections, **preamble)


# --- bytes ------------------------------------------------------------------------------------------------------------


def _bytes(data: bytes, rng: random.Random, anywhere: bool = False) -> bytes:
    """One to four bytes changed, or a run of them taken out, put in, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(changed) + 1)
        run = min(len(changed) - at, rng.choice([1, 1, 2, 4, 8, 28, 100]))
        what = rng.randrange(12 if anywhere else 10)
        if what < 6 and at < len(changed):
            values = [changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 1, 0x7F, 0x80, 0xFF]
            changed[at] = rng.choice([*values, (changed[at] + 1) & 255, (changed[at] - 1) & 255])
        elif what == 6:
            del changed[at : at + run]
        elif what == 7:
            changed[at:at] = rng.randbytes(run)
        elif what == 8:
            changed[at:at] = changed[at : at + run]
        elif what == 9:
            changed[at : at + run] = bytes(run)
        elif what == 10:
            del changed[at:]
    return bytes(changed)


def _repaired(data: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """Bytes of the preamble, the header, the table or a section; then everything that follows from them is right."""
    if len(data) < PREAMBLE_SIZE:
        return data + _bytes(bytes(8), rng), True
    fields = list(PREAMBLE.unpack_from(data))
    table, end = PREAMBLE_SIZE + fields[4], PREAMBLE_SIZE + fields[4] + SECTION.size * fields[5]
    if end > len(data):
        return forging.repair(_bytes(data, rng)), False
    packed, rows = data[PREAMBLE_SIZE:table], [list(row) for row in SECTION.iter_unpack(data[table:end])]
    payloads, at = [], end
    for row in rows:
        payloads.append(data[at : at + row[4]])
        at += row[4]
    whole, part = True, rng.choice(["preamble", "header", "table", "section", "section", "section"])
    if part == "header" and fields[3] == 1 and rng.random() < 0.5:
        packed, whole = _frame(packed, rng)
    elif part == "header":
        packed, whole = _bytes(packed, rng), fields[3] == 0
    elif part == "section" and rows:
        number = rng.randrange(len(rows))
        if rows[number][1] == ZSTD and rng.random() < 0.5:
            payloads[number], whole = _frame(payloads[number], rng)
        else:
            payloads[number], whole = _bytes(payloads[number], rng), rows[number][1] != ZSTD
        if rows[number][1] == STORED and rng.random() < 0.5:
            rows[number][5] = len(payloads[number])
    elif part == "table" and rows and rng.random() < 0.3:
        _rows_moved(rows, payloads, rng)
        part = ""
    fields[4:] = len(packed), len(rows), PREAMBLE_SIZE + len(packed) + SECTION.size * len(rows)
    for row, payload in zip(rows, payloads, strict=True):
        row[4], row[6], row[7] = len(payload), zlib.crc32(payload), fields[6]
        fields[6] += len(payload)
    if part == "table" and rows:
        _row_changed(rows, payloads, rng)
    if part == "preamble":
        number = rng.randrange(1, 7)
        top = (1 << (0, 16, 16, 32, 32, 32, 64)[number]) - 1
        fields[number] = rng.choice([(fields[number] + rng.randrange(-2, 3)) & top, rng.randint(0, top), 1, 2, top])
    start, index = PREAMBLE.pack(*fields), b"".join(SECTION.pack(*row) for row in rows)
    crc = CRC.pack(zlib.crc32(start + packed + index))
    return b"".join([start, crc, packed, index, *payloads]), whole


def _frame(frame: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """A zstd frame with another header; a whole one stays one that decoders agree on, or is told."""
    if frame[:4] == ZSTD_MAGIC and len(frame) > 16:
        return frames.changed(frame, rng)
    return _bytes(frame, rng), False


def _rows_moved(rows: list[list[int]], payloads: list[bytes], rng: random.Random) -> None:
    """Two sections change places, or one is there again, or is missing."""
    number, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    what = rng.randrange(3)
    if what == 0:
        rows[number], rows[other] = rows[other], rows[number]
        payloads[number], payloads[other] = payloads[other], payloads[number]
    elif what == 1:
        rows.insert(other, list(rows[number]))
        payloads.insert(other, payloads[number])
    else:
        del rows[number], payloads[number]


def _row_changed(rows: list[list[int]], payloads: list[bytes], rng: random.Random) -> None:
    """A number of the table is another one; or the last section ends elsewhere than the file, or is said to be coded by rANS."""
    what = rng.random()
    if what < 0.2:
        row, payload = rows[-1], payloads[-1]
        row[4] = max(0, row[4] + rng.choice([-8, -2, -1, 1, 2, 1 << 20]))
        row[5], row[6] = row[4] if row[1] == STORED else row[5], zlib.crc32(payload[: row[4]])
        return
    if what < 0.3:
        rows[-1][1], rows[-1][5] = RANS, rows[-1][4] + rng.randrange(3)
        return
    row, column = rng.choice(rows), rng.randrange(8)
    top = (1 << (16, 8, 8, 32, 32, 32, 32, 64)[column]) - 1
    row[column] = rng.choice(
        [row[column] ^ 1, row[column] ^ 2, (row[column] + rng.randrange(-2, 3)) & top, rng.randint(0, top), top]
    )
    if column == 4 and row[1] == STORED and rng.random() < 0.5:
        row[5] = row[4]
