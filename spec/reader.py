"""A second reader and renderer of `.gsd`, written from FORMAT.md alone.

It needs the standard library and zstandard, and shares nothing with gsdata: where the two disagree, one of them or FORMAT.md
has a bug. It is meant to be read beside FORMAT.md, from top to bottom, and is slow.

    python spec/reader.py FILE.gsd          what is in a file, as JSON
    python spec/reader.py spec/vectors      this reader against the vectors; exit 0 where all agree
"""

import hashlib
import json
import math
import struct
import sys
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import zstandard

from errors import ChecksumError, FormatError, LimitError, VersionError, need
from header import LABELS, Msgpack, check_header
from rans import rans

MAGIC, VERSION = b"\x89GSD\r\n\x1a\n", (1, 0)


# --- container ------------------------------------------------------------------------------------------------------------


def unzstd(frame: bytes, at: int, limit: int, size: int | None = None) -> bytes:
    """The content of a zstd frame: `size` bytes where that is known, else at most `limit`."""
    need(frame[:4] == b"\x28\xb5\x2f\xfd" and len(frame) > 4 and frame[4] & 31 == 0, at, "header of a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        content, window = parameters.content_size, parameters.window_size
        need(content != zstandard.CONTENTSIZE_UNKNOWN, at, "zstd frame without content size")
        need(content <= limit and window <= 1 << 24, at, "zstd frame asks for too much", LimitError)
        need(len(frame) < content and size in (None, content), at, "content size of a zstd frame")
        result = zstandard.ZstdDecompressor().decompress(frame, max_output_size=content, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(at, f"zstd: {error}") from None
    need(len(result) == content, at, "zstd content of another size")
    return result


class File:
    """A file whose structure is checked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        need(data[:8] == MAGIC and len(data) >= 36, 0, "no .gsd file")
        major, minor, flags, length, count, size, crc = struct.unpack_from("<HHIIIQI", data, 8)
        need(major == VERSION[0], 8, f"version {major}.{minor}, not {VERSION[0]}.x", VersionError)
        need(size == len(data), 24, f"{len(data)} bytes instead of {size}")
        need(flags in (0, 1), 12, f"flags {flags}")
        need(length <= 1 << 22, 16, f"header of {length} bytes", LimitError)
        need(count <= 1 << 18, 20, f"{count} sections", LimitError)
        start = 36 + length + 28 * count
        need(start <= size, 16, "the file ends before the section table does")
        need(zlib.crc32(data[36:start], zlib.crc32(data[:32])) == crc, 32, "checksum", ChecksumError)
        self.packed = unzstd(data[36 : 36 + length], 36, 1 << 22) if flags else data[36 : 36 + length]
        self.root = Msgpack(self.packed).root
        self.header, self.tables = check_header(self.root, (major, minor) > VERSION)
        self.own = 2 + len(LABELS[self.header["labels"]])  # sections of the format in a chunk
        self.chunks = range(len(self.header["chunks"]["images"]))
        self.entries = list(struct.iter_unpack("<HBBIIIIQ", data[36 + length : start]))
        self.number = {(entry[3], entry[0]): i for i, entry in enumerate(self.entries)}
        self.check_table(36 + length, start)

    def check_table(self, at: int, end: int) -> None:
        """The section table begins at `at` and ends at `end`."""
        names, last = len(self.header["sections"]), (-1, 0)
        sections = [(c, n) for c in self.chunks for n in range(self.own)] + [(0, n) for n in range(self.own, names)]
        expected = iter(sorted(sections))
        for name, codec, zero, chunk, stored, raw, _, offset in self.entries:
            need(name < names and codec < 3 and zero == 0, at, "name, codec or zero")
            need((chunk, name) > last, at, "not sorted")
            need(offset == end, at, "a hole or an overlap")
            need(raw <= 1 << 24, at, "raw size", LimitError)
            need(stored == raw if codec == 0 else stored < raw, at, "stored size")
            need((chunk, name) == next(expected, None), at, "another section belongs here")
            if name < self.own:
                need(raw == sum(n * (1 + (bits > 8)) for bits, n in self.streams(chunk, name)), at, "raw size")
            need(name < self.own or codec < 2, at, "codec of an optional section")
            at, end, last = at + 28, end + stored, (chunk, name)
        need(next(expected, None) is None, at, "a section is missing")
        need(end == len(self.data), 24, "the last section does not end where the file ends")

    def streams(self, chunk: int, name: int) -> list[tuple[int, int]]:
        """(bits, codes) of every stream of a section of the format."""
        h, k = self.header, self.header["class_count"]
        one = {key: column[chunk] for key, column in h["chunks"].items()}
        images, weights = one["images"], one.get("labels", one["images"] * k)
        if name == self.own - 1:
            widths = {key: quantizer[3] for key, quantizer in h["quantizers"][one["quantizers"]].items()}
            order = ["means", "means", "scales", "scales", "shear", *["colors"] * h["gaussians"]["channels"]]
            return [(widths[key], one["gaussians"]) for key in order]
        index, number = (max(1, (n - 1).bit_length()) for n in (k, k + 1))
        streams = {"counts": (16, images), "labels": (index, images), "label.counts": (number, images)}
        return [(streams | {"label.classes": (index, weights), "label.weights": (8, weights)})[h["sections"][name]]]

    def section(self, number: int) -> bytes:
        """Raw bytes of the section of this number in the table."""
        name, codec, _, chunk, stored, raw, crc, at = self.entries[number]
        data = self.data[at : at + stored]
        need(zlib.crc32(data) == crc, at, "checksum of a section", ChecksumError)
        if codec == 1:
            return unzstd(data, at, 1 << 24, raw)
        return rans(data, self.streams(chunk, name), at) if codec == 2 else data

    def codes(self, chunk: int, name: int, at: int) -> list[list[int]]:
        """The codes of every stream of a section of the format."""
        data, result = self.section(self.number[chunk, name]), []
        for bits, n in self.streams(chunk, name):
            high = data[n : 2 * n] if bits > 8 else bytes(n)
            result.append([a | b << 8 for a, b in zip(data[:n], high)])
            data = data[2 * n if bits > 8 else n :]
            need(all(code < 1 << bits for code in result[-1]), at, f"a code of more than {bits} bits")
        return result

    def images(self) -> Iterator[tuple[Any, list[tuple[float, ...]]]]:
        """Label and Gaussians of every image: None, a class or K weights, and rows of x, y, l11, l21, l22, colours."""
        h = self.header
        for chunk in self.chunks:
            offsets = [self.entries[self.number[chunk, name]][7] for name in range(self.own)]
            (counts,) = self.codes(chunk, 0, offsets[0])
            need(sum(counts) == h["chunks"]["gaussians"][chunk], offsets[0], "counts do not add up")
            streams = [self.codes(chunk, name, offsets[1])[0] for name in range(1, self.own - 1)]
            labels = read_labels(h["labels"], h["class_count"], len(counts), streams, offsets[1])
            x, y, l11, l22, l21, *colors = self.codes(chunk, self.own - 1, offsets[-1])
            tables, first = self.tables[h["chunks"]["quantizers"][chunk]], 0
            if len(colors) == 3:  # green-difference
                mask = len(tables["colors"]) - 1
                green, red, blue = colors
                colors = [
                    [r + g & mask for r, g in zip(red, green)],
                    green,
                    [b + g & mask for b, g in zip(blue, green)],
                ]
            names = ["means", "scales", "shear", "scales", *["colors"] * len(colors)]
            for label, count in zip(labels, counts):
                rows, code = [], 0
                for i in range(first, first + count):
                    code += x[i]
                    need(code < len(tables["means"]), offsets[-1], "x adds up beyond its table")
                    rest = zip(names, (y, l11, l21, l22, *colors))
                    rows.append((tables["means"][code], *(tables[name][column[i]] for name, column in rest)))
                first += count
                yield label, rows


def read_labels(layout: str, classes: int, n: int, streams: list[list[int]], at: int) -> list[Any]:
    """One label for each of n images."""
    if layout == "none":
        return [None] * n
    if layout == "hard":
        need(max(streams[0]) < classes, at, "a class at or above K")
        return streams[0]
    if layout == "dense":
        rows = [streams[0][i * classes : (i + 1) * classes] for i in range(n)]
    else:
        counts, which, weights = streams
        need(sum(counts) == len(which), at, "label counts do not add up")
        need(all(k < classes for k in which), at, "a class at or above K")
        need(all(weights), at, "a weight of 0")
        rows, first = [], 0
        for count in counts:
            own = which[first : first + count]
            need(all(a < b for a, b in pairwise(own)), at, "classes do not ascend")
            row = dict(zip(own, weights[first : first + count]))
            rows.append([row.get(k, 0) for k in range(classes)])
            first += count
    need(all(map(any, rows)), at, "a label without any weight")
    return rows


# --- rendering ------------------------------------------------------------------------------------------------------------


def render(header: dict[str, Any], rows: list[Any], height: int, width: int) -> list[list[list[float]]]:
    """Pixels of one image as lists [channel][row][column]."""
    g = header["gaussians"]
    (h0, w0), mode, epsilon = g["size"], g["antialias"], 2.0**-10
    v = 1e-4 if mode == "none" else 1 / 12
    pixels = [[[value] * width for _ in range(height)] for value in g["background"]]
    for x, y, l11, l21, l22, *colors in rows:
        a, b, c = l11 * width / w0, l21 * height / h0, l22 * height / h0  # S L
        p = math.sqrt(a * a + v)  # L' = [[p, 0], [q, r]]; the determinant without cancellation
        determinant = (a * c) ** 2 + v * (a * a + b * b + c * c) + v * v
        q, r = a * b / p, math.sqrt(determinant) / p
        amplitude = a * c / math.sqrt(determinant) if mode == "box-normalized" else 1.0
        for i in range(height):
            for j in range(width):
                d = (j + 0.5 - (x + 1) * width / 2) / p
                e = (i + 0.5 - (y + 1) * height / 2 - q * d) / r
                w = (math.exp(-(d * d + e * e) / 2) - epsilon) / (1 - epsilon)
                if w > 0:
                    for channel, color in zip(pixels, colors):
                        channel[i][j] += amplitude * w * color
    return pixels


def to_byte(pixel: float) -> int:
    """A pixel in 8-bit output."""
    return round(min(max(pixel, 0.0), 1.0) * 255)


# --- command --------------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A header's value as JSON has it: bytes and integers that JSON readers round become maps."""
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if type(value) is int and abs(value) >= 1 << 53:
        return {"integer": str(value)}
    if type(value) is list:
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if type(value) is dict else value


def describe(data: bytes) -> dict[str, Any]:
    """All that is in a file, each byte of it checked, as the JSON of a valid vector has it."""
    file = File(data)
    images = list(file.images())
    raw = [file.section(number) for number in range(len(file.entries))]
    own = [content for content, entry in zip(raw, file.entries) if entry[0] < file.own]
    rows = [row for _, gaussians in images for row in gaussians]
    values = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    names, codecs = file.header["sections"], ["stored", "zstd", "rans"]
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_id": hashlib.sha256(b"".join([file.packed, *own])).hexdigest(),
        "header": plain(file.root),
        "sections": [[e[3], names[e[0]], codecs[e[1]], zlib.crc32(r)] for e, r in zip(file.entries, raw)],
        "counts": [len(gaussians) for _, gaussians in images],
        "labels": [label for label, _ in images],
        "gaussians": rows[:4],
        "gaussians_sha256": hashlib.sha256(values).hexdigest(),
    }


def disagreement(path: Path) -> str | None:
    """What this reader makes of a vector other than its JSON says; None where they agree."""
    expected, data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), path.read_bytes()
    if "error" in expected:
        try:
            describe(data)
        except FormatError as error:
            found = [type(error).__name__, error.offset]
            return None if found == [expected["error"], expected["offset"]] else f"{found}: {error}"
        return "read without an error"
    found = json.loads(json.dumps(describe(data)))
    wrong = [key for key in found if key in expected and found[key] != expected[key]]
    for picture in expected.get("renders", []):
        rows = list(File(data).images())[picture["image"]][1]
        pixels = [p for c in render(File(data).header, rows, *picture["size"]) for row in c for p in row]
        near = zip(pixels, picture["pixels"], picture["tolerance"], strict=True)
        if any(abs(a - b) > t for a, b, t in near):
            wrong.append(f"pixels at {picture['size']}")
        if any(b not in (None, to_byte(a)) for a, b in zip(pixels, picture["bytes"], strict=True)):
            wrong.append(f"bytes at {picture['size']}")
    return f"another {', '.join(wrong)}" if wrong else None


def main(path: Path) -> None:
    """Describe a file, or check a folder of vectors."""
    if path.is_file():
        try:
            print(json.dumps(describe(path.read_bytes()), indent=1))
        except FormatError as error:
            sys.exit(f"{path}: {type(error).__name__}: {error}")
        return
    vectors = sorted(path.glob("*/*.gsd"))
    wrong = {vector: what for vector in vectors if (what := disagreement(vector)) is not None}
    for vector, what in wrong.items():
        print(f"{vector.relative_to(path)}: {what}")
    print(f"{len(vectors) - len(wrong)} of {len(vectors)} vectors agree")
    sys.exit(bool(wrong) or not vectors)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists():
        sys.exit(f"{__doc__}\none argument needed: a file, or the folder of the vectors")
    main(Path(sys.argv[1]))
