"""The bad files of spec/vectors: each breaks one rule of FORMAT.md, and its checksums are right unless they are what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import gsdata
from gsdata import canonical
from gsdata.container import VERSION
from gsdata.forging import frame, put_together, take_apart
from gsdata.testing import make_codes
from vectors.handmade_rans import Plane, coded, model
from vectors.headers import BASE, FORMAT, HEADER, LIMIT, VERSION_, Invalid, header_form, header_values
from vectors.valid import NEWER_MINOR, WIDE, one_lane, optional, sparse

CHECKSUM = "ChecksumError"


def entry(data: bytes, number: int) -> int:
    """Offset of an entry of the section table."""
    return 36 + int.from_bytes(data[16:20], "little") + 28 * number


def section(data: bytes, number: int) -> int:
    """Offset of the stored bytes of a section."""
    return int.from_bytes(data[entry(data, number) + 20 :][:8], "little")


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def flipped(data: bytes, at: int) -> bytes:
    return changed(data, at, bytes([data[at] ^ 0x10]))


def preamble() -> Invalid:
    header, sections = take_apart(BASE)

    def with_fields(**fields: int) -> bytes:
        return put_together(header, sections, **fields)

    versions = {"version-newer-major": (VERSION[0] + 1, 0), "version-65535": (65535, 65535)}
    versions |= {f"version-0.{n}": (0, n) for n in (1, 2, 3)}  # those that were before 1.0
    found: Invalid = {name: (["P2"], VERSION_, 8, with_fields(major=a, minor=b)) for name, (a, b) in versions.items()}
    hologram = put_together(header | {"required": ["hologram"]}, sections, minor=NEWER_MINOR)
    found["version-newer-minor-required"] = ["P2", "H12"], VERSION_, HEADER, hologram
    odd = header | {"required": ["hologram", "hologram"], "sections": {}, "chunks": 7}
    found["version-newer-minor-required-first"] = (
        ["H12"],
        VERSION_,
        HEADER,
        put_together(odd, sections, minor=NEWER_MINOR),
    )
    return found | {
        "magic-text-mode": (["P1"], FORMAT, 0, BASE.replace(b"\r\n", b"\n", 1)),
        "magic-first-byte": (["P1"], FORMAT, 0, changed(BASE, 0, b"\x09")),
        "empty": (["P1"], FORMAT, 0, b""),
        "truncated-preamble": (["P1"], FORMAT, 0, BASE[:35]),
        "truncated": (["P3"], FORMAT, 24, BASE[:-1]),
        "trailing-byte": (["P3"], FORMAT, 24, BASE + b"\0"),
        "file-length-overflow": (["P3"], FORMAT, 24, with_fields(file_length=2**64 - 1)),
        "flags-2": (["P4"], FORMAT, 12, with_fields(flags=2)),
        "flags-high-bit": (["P4"], FORMAT, 12, with_fields(flags=1 << 31)),
        "header-beyond-file": (["P5"], FORMAT, 16, with_fields(header_length=len(BASE))),
        "table-beyond-file": (["P5"], FORMAT, 16, with_fields(section_count=1000)),
        "checksum-preamble": (["P6"], CHECKSUM, 32, flipped(BASE, 32)),
        "checksum-header": (["P6"], CHECKSUM, 32, flipped(BASE, 40)),
        "checksum-table": (["P6"], CHECKSUM, 32, flipped(BASE, entry(BASE, 1) + 16)),
        "limit-header": (["L1"], LIMIT, 16, with_fields(header_length=(1 << 22) + 1)),
        "limit-sections": (["L4"], LIMIT, 20, with_fields(section_count=(1 << 18) + 1)),
    }


def table() -> Invalid:
    data = optional({"test.a": (0, b"abc", 3), "test.b": (0, b"de", 2)})
    zeros = optional({"test.zeros": (1, frame(bytes(1000)), 1000)})
    found: Invalid = {}

    def add(
        name: str, rule: str, row: int, changes: dict[tuple[int, int], int], error: str = FORMAT, base: bytes = data
    ) -> None:
        def change(rows: list[list[int]]) -> None:
            for (r, column), value in changes.items():
                rows[r][column] = value

        header, sections = take_apart(base)
        found[name] = [rule], error, entry(base, row), put_together(header, sections, table=change)

    name, codec, zero, chunk, _, raw, _, offset = range(8)
    first = section(data, 0)
    add("table-name", "T1", 3, {(3, name): 4})
    add("table-codec", "T2", 1, {(1, codec): 3})
    add("table-zero", "T3", 1, {(1, zero): 1})
    add("table-not-sorted", "T4", 3, {(3, name): 1})
    add("table-repeated", "T4", 1, {(1, name): 0})
    add("table-chunk-order", "T4", 4, {(4, chunk): 0}, base=BASE)
    add("table-hole", "T5", 0, {(0, offset): first + 1})
    add("table-overlap", "T5", 2, {(2, offset): section(data, 2) - 1})
    add("table-offset-overflow", "T5", 1, {(1, offset): 2**64 - 1})
    add("table-optional-chunk", "T8", 3, {(3, chunk): 1})
    add("table-stored-size", "C1", 2, {(2, raw): 4})
    add("table-raw-size", "T9", 1, {(1, raw): 9, (1, codec): 1})
    add("table-raw-limit", "L5", 2, {(2, raw): (1 << 24) + 1}, LIMIT, zeros)
    add("table-zstd-grows", "C6", 2, {(2, raw): len(frame(bytes(1000)))}, base=zeros)
    add("table-rans-grows", "C9", 1, {(1, codec): 2})
    add("table-rans-optional", "C8", 2, {(2, codec): 2}, base=zeros)

    header, sections = take_apart(data)
    longer = put_together(header, sections, table=lambda rows: rows[3].__setitem__(slice(4, 6), [3, 3]))
    found["table-beyond-end"] = ["T6"], FORMAT, 24, longer
    found["table-before-end"] = (
        ["T6"],
        FORMAT,
        24,
        put_together(
            header, [*sections[:3], [*sections[3][:4], b"de\0", 2]], table=lambda rows: rows[3].__setitem__(4, 2)
        ),
    )
    for what, rows, at in (("optional", sections[:3], 3), ("own", sections[1:], 0)):
        short = put_together(header, rows)
        found[f"table-no-{what}-section"] = ["T8" if what == "optional" else "T7"], FORMAT, entry(short, at), short
    extra = put_together(header, [*sections[:2], [0, 0, 0, 1, b"\0\0", 2]])
    found["table-chunk-too-many"] = ["T7"], FORMAT, entry(extra, 2), extra
    header, sections = take_apart(BASE)
    few = put_together(header, sections[:3])
    found["table-chunk-missing"] = ["T7"], FORMAT, entry(few, 3), few
    return found


def codecs() -> Invalid:
    """zstd frames, in an optional section and as the header, and checksums of sections."""
    raw = bytes(range(100)) * 10
    good = frame(raw, level=3)
    assert good[4] == 0x60  # single segment, two bytes of content size
    size = good[5:7]
    lying = good[:5] + (999 - 256).to_bytes(2, "little") + good[7:]
    window = b"\x28\xb5\x2f\xfd\x40" + bytes([21 << 3]) + size + b"\x03\x1f\0\0"
    frames: dict[str, tuple[list[str], bytes, int]] = {
        "magic": (["C2"], changed(good, 0, b"\x27"), 1000),
        "skippable": (["C2"], b"\x50\x2a\x4d\x18\x01\0\0\0x" + good, 1000),
        "only-skippable": (["C2"], b"\x50\x2a\x4d\x18\x01\0\0\0x", 1000),
        "trailing-byte": (["C2"], good + b"\0", 1000),
        "two-frames": (["C2"], good + frame(b""), 1000),
        "truncated": (["C2"], good[:-1], 1000),
        "only-magic": (["C2"], good[:4], 1000),
        "empty": (["C2"], b"", 1000),
        "reserved-block": (["C2"], good[:7] + b"\x07\0\0", 1000),
        "no-content-size": (["C3"], frame(raw, write_content_size=False), 1000),
        "checksum": (["C4"], frame(raw, write_checksum=True), 1000),
        "dictionary": (["C4"], good[:4] + b"\x61\x07" + good[5:], 1000),
        "dictionary-0": (["C4"], good[:4] + b"\x61\0" + good[5:], 1000),
        "reserved-bit": (["C4"], changed(good, 4, b"\x68"), 1000),
        "unused-bit": (["C4"], changed(good, 4, b"\x70"), 1000),
        "other-size": (["C5"], good, 1001),
        "content-larger": (["C5"], lying, 999),
        "content-smaller": (["C5"], good[:5] + (1001 - 256).to_bytes(2, "little") + good[7:], 1001),
    }
    found: Invalid = {}
    for name, (rules, packed, raw_size) in frames.items():
        data = optional({"test.zeros": (1, packed, raw_size)})
        found[f"zstd-{name}"] = rules, FORMAT, section(data, 2), data
    data = optional({"test.zeros": (1, window, 1000)})
    found["zstd-window"] = ["L6"], LIMIT, section(data, 2), data

    header, sections = take_apart(BASE)
    packed = canonical.encode(header | {"metadata": {"text": "a" * 300}})
    headers: dict[str, tuple[list[str], str, bytes]] = {
        "checksum": (["C4", "C7"], FORMAT, frame(packed, write_checksum=True)),
        "no-content-size": (["C3", "C7"], FORMAT, frame(packed, write_content_size=False)),
        "trailing-byte": (["C2", "C7"], FORMAT, frame(packed) + b"\0"),
        "truncated": (["C2", "C7"], FORMAT, frame(packed)[:-1]),
        "grows": (["C6", "C7"], FORMAT, frame(bytes(range(256)))),
        "plain": (["C2", "C7"], FORMAT, packed),
        "limit": (["L1"], LIMIT, frame(bytes((1 << 22) + 1))),
    }
    for name, (rules, error, stored) in headers.items():
        found[f"header-zstd-{name}"] = rules, error, HEADER, put_together(stored, sections, flags=1)

    zstd = optional({"test.zeros": (1, good, 1000)})
    for name, data, number in (("stored", BASE, 2), ("zstd", zstd, 2), ("rans", LABELLED, 1)):
        at = section(data, number)
        found[f"checksum-{name}"] = ["T10"], CHECKSUM, at, flipped(data, at + 5 if name != "stored" else at)
    return found


def streams() -> Invalid:
    """Sections that decode to codes and labels which must not be."""
    codes = make_codes(0, [2, 1], channels=1)
    files = {
        "hard": gsdata.to_bytes(codes, labels=[1, 0], class_count=3, level=0),
        "dense": gsdata.to_bytes(codes, soft_labels=[[1, 2, 4], [3, 0, 1]], level=0),
        "sparse": gsdata.to_bytes(codes, soft_labels=sparse(20), level=0),
        "wide": gsdata.to_bytes(make_codes(0, [2, 1], channels=1, sets=(WIDE,)), level=0),
    }
    found: Invalid = {}

    def add(
        name: str, rule: str, base: str, section_name: str, at: int, values: Iterable[int], where: int | None = None
    ) -> None:
        header, sections = take_apart(files[base])
        number = header["sections"].index(section_name)
        sections[number][4] = changed(sections[number][4], at, bytes(values))
        data = put_together(header, sections)
        found[f"stream-{name}"] = [rule], FORMAT, section(data, number if where is None else where), data

    add("counts-sum", "S4", "hard", "counts", 0, [2, 2])
    add("counts-high-plane", "S4", "hard", "counts", 2, [1, 0])
    add("code-y", "S1", "wide", "gaussians", 9, [16])
    add("code-scales", "S1", "hard", "gaussians", 6, [64])
    add("code-shear", "S1", "hard", "gaussians", 14, [128])
    add("code-color", "S1", "hard", "gaussians", 17, [255])
    add("x-adds-up", "S2", "hard", "gaussians", 0, [200, 56])
    add("class", "S3", "hard", "labels", 0, [3])
    add("class-sparse", "S3", "sparse", "label.classes", 2, [20], 1)
    add("label-counts-sum", "S5", "sparse", "label.counts", 0, [3, 2])
    add("label-counts-above-classes", "S5", "sparse", "label.counts", 0, [21, 1])
    add("classes-descend", "S6", "sparse", "label.classes", 0, [7, 3], 1)
    add("classes-equal", "S6", "sparse", "label.classes", 0, [7, 7], 1)
    add("weight-0", "S7", "sparse", "label.weights", 1, [0], 1)
    add("no-weight-dense", "S8", "dense", "label.weights", 0, [0, 0, 0])
    add("no-weight-sparse", "S8", "sparse", "label.counts", 0, [4, 0])
    return found


# Sixty-four labels of two classes: one plane of one bit.
TWO: Plane = [(int(i % 3 == 0), 0) for i in range(64)], [[(2048, 0), (2048, 2048)]]
GOOD_MODEL = "0000" + "1"  # no thresholds; a flat table


def labelled(stored: bytes) -> bytes:
    """A file whose labels are stored as codec 2."""
    data = gsdata.to_bytes(make_codes(0, [0] * 64, channels=1), labels=[0] * 64, class_count=2, level=0)
    header, sections = take_apart(data)
    assert len(stored) < 64
    sections[1][1], sections[1][4] = 2, stored
    return put_together(header, sections)


LABELLED = labelled(model(GOOD_MODEL) + coded([TWO]))


def rans() -> Invalid:
    """Sections of codec 2 that no encoder makes."""
    found: Invalid = {}
    body = coded([TWO])
    states, words = body[:4], body[4:]
    ends_elsewhere = coded([TWO], start=(1 << 16) + 1)
    # The high plane of `counts` may take its context from the low plane: structure of both planes, the first one flat.
    counts = "0000" + "1" + "0001" + "1"

    def add(
        name: str,
        rule: str,
        stored: bytes,
        error: str = FORMAT,
        base: Callable[[bytes], bytes] = labelled,
        number: int = 1,
    ) -> None:
        data = base(stored)
        found[f"rans-{name}"] = [rule], error, section(data, number), data

    def counted(stored: bytes) -> bytes:
        header, sections = take_apart(gsdata.to_bytes(make_codes(0, [0] * 64, channels=1), level=0))
        assert len(stored) < 128
        sections[0][1], sections[0][4] = 2, stored
        return put_together(header, sections)

    add("empty", "A11", b"")
    add("lanes-limit", "L18", b"\x09" + model(GOOD_MODEL)[1:] + body, LIMIT)
    add("lanes-few", "A12", b"", LIMIT, base=lambda _: one_lane(2049))
    add("no-source", "A2", model("0001" + "1" * 20))
    add("no-source-set", "A2", model("0000" + "1" + "0001" + "0" + "1" * 20), base=counted, number=0)
    add("threshold-large", "A3", model(counts + "0" * 12 + "1" + "1" * 16 + "1" * 20) + body, base=counted, number=0)
    add("threshold-long", "A3", model(counts + "0" * 200 + "1" * 230) + body, base=counted, number=0)
    add("difference-large", "A4", model("0000" + "0" + "00" + "0000000" + "1" + "1" + "0" * 7) + body)
    add("difference-large-with-order", "A4", model("0000" + "0" + "11" + "0000" + "1" + "1" + "0" * 10) + body)
    add("log-weight-negative", "A5", model("0000" + "0" + "00" + "01" + "001" + "0" + "00") + body)
    add("log-weight-limit", "L20", model("0000" + "0" + "00" + "0000001" + "1" + "100011") + body, LIMIT)
    add("no-symbol", "A6", model("0000" + "0" + "00" + "11") + body)
    add("padding", "A7", model(GOOD_MODEL + "001") + body)
    add("state-small", "A8", model(GOOD_MODEL) + (65535).to_bytes(4, "little") + words)
    add("words-left", "A9", model(GOOD_MODEL) + body + b"\0\0")
    add("words-missing", "A9", model(GOOD_MODEL) + body[:-2])
    add("state-ends-elsewhere", "A10", model(GOOD_MODEL) + ends_elsewhere)
    add("half-word", "A11", model(GOOD_MODEL) + body + b"\0")
    add("model-ends-early", "A11", model("0000" + "0" + "00" + "0"))
    add("model-low-bits-missing", "A11", b"\0" + model("0000" + "0" + "11" + "11")[1:2])
    add("states-missing", "A11", model(GOOD_MODEL) + states[:2])
    return found


def invalid() -> Invalid:
    """Rules that a file breaks, the class and offset of the error, and the file, by name."""
    found: Invalid = {}
    for part in (preamble, table, codecs, header_form, header_values, streams, rans):
        made = part()
        assert not set(found) & set(made)
        found |= made
    return found
