"""A second reader and renderer of `.gsd`, written from FORMAT.md alone.

It needs the standard library and zstandard, and shares nothing with gsdata: where the two disagree, one of them or FORMAT.md has a
bug. It is meant to be read beside FORMAT.md, from top to bottom, and is slow.

    python spec/reader.py FILE.gsd          what is in a file, as JSON
    python spec/reader.py spec/vectors      this reader against the vectors; exit 0 where all agree
"""

import hashlib
import json
import math
import re
import struct
import sys
import zlib
from pathlib import Path

import zstandard

MAGIC, VERSION = b"\x89GSD\r\n\x1a\n", (0, 2)
KEYS = "chunks class_count classes gaussians labels metadata provenance quantizers recipe required sections transforms".split()
RECIPE = {
    "augment": str, "batch_size": int, "epochs": int, "lr": float, "mean": list, "model": str, "momentum": float,
    "std": list, "steps": int, "value_space": str, "weight_decay": float, "zca": dict,
}  # fmt: skip
LABELS = {
    "none": [],
    "hard": ["labels"],
    "dense": ["label.weights"],
    "sparse": ["label.counts", "label.classes", "label.weights"],
}


class FormatError(Exception):
    """What FORMAT.md forbids; `offset` is where in the file."""

    def __init__(self, offset, text):
        super().__init__(f"offset {offset}: {text}")
        self.offset = offset


class VersionError(FormatError): ...


class ChecksumError(FormatError): ...


class LimitError(FormatError): ...


def need(condition, offset, text, error=FormatError):
    if not condition:
        raise error(offset, text)


# --- header ---------------------------------------------------------------------------------------------------------------


class Msgpack:
    """The canonical form, read once from the front; `root` is the outermost map."""

    NUMBERS = {  # struct's letter, and the first number that needs the form
        0xCC: (">B", 1 << 7), 0xCD: (">H", 1 << 8), 0xCE: (">I", 1 << 16), 0xCF: (">Q", 1 << 32),
        0xD0: (">b", -33), 0xD1: (">h", -129), 0xD2: (">i", -32769), 0xD3: (">q", -(1 << 31) - 1),
    }  # fmt: skip
    LENGTHS = {
        0xC4: ("bytes", ">B", 0), 0xC5: ("bytes", ">H", 1 << 8), 0xC6: ("bytes", ">I", 1 << 16),
        0xD9: ("text", ">B", 32), 0xDA: ("text", ">H", 1 << 8), 0xDB: ("text", ">I", 1 << 16),
        0xDC: ("array", ">H", 16), 0xDD: ("array", ">I", 1 << 16), 0xDE: ("map", ">H", 16), 0xDF: ("map", ">I", 1 << 16),
    }  # fmt: skip

    def __init__(self, data):
        self.data, self.at, self.values = data, 0, 0
        self.root = self.value(1)
        need(isinstance(self.root, dict) and self.at == len(data), 36, "the header is one map and nothing else")

    def take(self, size):
        need(self.at + size <= len(self.data), 36, "the header ends inside a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form, first):
        number = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        need(number >= first if first >= 0 else number <= first, 36, "not the shortest form")
        return number

    def value(self, depth):
        self.values += 1
        need(self.values <= 262144, 36, "more than 262,144 values", LimitError)
        tag = self.take(1)[0]
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 256
        if tag < 0xC0:
            kind, size = ("map", tag & 15) if tag < 0x90 else ("array", tag & 15) if tag < 0xA0 else ("text", tag & 31)
        elif tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        elif tag == 0xCB:
            number = struct.unpack(">d", self.take(8))[0]
            need(math.isfinite(number), 36, "a float that is not finite")
            return number
        elif tag in self.NUMBERS:
            return self.number(*self.NUMBERS[tag])
        else:
            need(tag in self.LENGTHS, 36, f"type {tag:#x}")
            kind, *form = self.LENGTHS[tag]
            size = self.number(*form)
        if kind == "bytes":
            return self.take(size)
        if kind == "text":
            try:
                return self.take(size).decode()
            except UnicodeDecodeError:
                raise FormatError(36, "text that is not UTF-8") from None
        need(depth <= 8, 36, "nested more than 8 deep", LimitError)
        if kind == "array":
            return [self.value(depth + 1) for _ in range(size)]
        result, last = {}, b""
        for i in range(size):
            key = self.value(depth + 1)
            need(isinstance(key, str) and (i == 0 or last < key.encode()), 36, f"key {key!r} is no text after the last")
            last, result[key] = key.encode(), self.value(depth + 1)
        return result


def check(value, kind, what, low=None, high=None, error=FormatError):
    """`value`, if it is of this type and within this range; `error` is for more than `high`."""
    need(type(value) is kind, 36, f"{what} is no {kind.__name__}")
    need(low is None or value >= low, 36, f"{what} is {value}")
    need(high is None or value <= high, 36, f"{what} is {value}", error)
    return value


def items(value, kind, what, *limits):
    return [check(item, kind, what, *limits) for item in check(value, list, what)]


def keys(value, what, required, optional=()):
    need(set(required) <= set(check(value, dict, what)) <= {*required, *optional}, 36, f"keys of {what}")
    return value


def one_of(value, what, *choices):
    need(check(value, str, what) in choices, 36, f"{what} is {value!r}")
    return value


def check_header(h):
    """All rules for values of the header; returns the tables of its quantiser sets."""
    for name in items(h.get("required"), str, "required"):
        raise VersionError(36, f"the file needs {name!r}")
    keys(h, "header", KEYS)
    layout = one_of(h["labels"], "labels", *LABELS)
    classes = check(h["class_count"], int, "class_count", 0 if layout == "none" else 1, 65535, LimitError)
    names = items(h["classes"], str, "classes")
    need(not names or len(names) == len(set(names)) == classes, 36, "classes are not K different names")
    check(h["metadata"], dict, "metadata")
    check(h["provenance"], dict, "provenance")

    g = keys(h["gaussians"], "gaussians", ["antialias", "background", "channels", "kernel", "size"])
    one_of(g["antialias"], "antialias", "box-normalized", "box", "none")
    one_of(g["kernel"], "kernel", "gaussian-compact-10")
    channels = check(g["channels"], int, "channels", 1, 4)
    need(len(items(g["background"], float, "background", -(2.0**24), 2.0**24)) == channels, 36, "background")
    need(len(items(g["size"], int, "size", 1, 65536, LimitError)) == 2, 36, "size")
    t = keys(h["transforms"], "transforms", ["color", "order"])
    one_of(t["color"], "color", "green-difference" if channels == 3 else "none")
    one_of(t["order"], "order", "sorted-delta")

    recipe = keys(h["recipe"], "recipe", ["value_space"], RECIPE)
    one_of(recipe["value_space"], "value_space", "srgb-unit")
    need(("mean" in recipe) == ("std" in recipe), 36, "mean and std come together")
    for name, value in recipe.items():
        check(value, RECIPE[name], name, 1 if RECIPE[name] is int else None)
        if name in ("mean", "std"):
            need(len(items(value, float, name)) == channels and (name == "mean" or min(value) > 0), 36, name)

    check(len(check(h["quantizers"], list, "quantizers")), int, "number of quantiser sets", 1, 256, LimitError)
    sets = [keys(s, "quantizers", ["colors", "means", "scales", "shear"]) for s in h["quantizers"]]
    tables = [{name: table(name, quantizer) for name, quantizer in s.items()} for s in sets]

    c = keys(h["chunks"], "chunks", ["gaussians", "images", "quantizers", *["labels"][: layout == "sparse"]])
    images = items(c["images"], int, "images", 1, 65536, LimitError)
    gaussians = items(c["gaussians"], int, "gaussians", 0, 262144, LimitError)
    items(c["quantizers"], int, "quantizers of a chunk", 0, len(tables) - 1)
    weights = items(c.get("labels", []), int, "labels of a chunk", 0)
    need(len({len(column) for column in c.values()}) == 1, 36, "lists of chunks differ in length")
    need(sum(images) <= 1 << 24 and sum(gaussians) <= 1 << 32, 36, "too many images or Gaussians", LimitError)
    most = max((n * classes for n in images if layout in ("dense", "sparse")), default=0)
    need(most <= 1 << 22, 36, "too many weights in a chunk", LimitError)
    need(all(w <= n * classes for w, n in zip(weights, images)), 36, "more weights than images × K")

    known = ["counts", *LABELS[layout], "gaussians"]
    extra = items(h["sections"], str, "sections")[len(known) :]
    need(h["sections"] == known + sorted(set(extra)), 36, "names of sections")
    need(len(extra) <= 64, 36, "more than 64 optional sections", LimitError)
    for name in extra:
        good = re.fullmatch(r"[a-z0-9_-]{1,31}(\.[a-z0-9_-]{1,31}){1,3}", name) and name not in sum(LABELS.values(), [])
        need(good, 36, f"optional section {name!r}")
    return tables


def table(name, quantizer):
    """The float32 values of a quantiser."""
    need(type(quantizer) is list and len(quantizer) == 4, 36, name)
    kind, low, high, bits = quantizer
    bound = 2.0**24 if one_of(kind, name, "uniform", "log2") == "uniform" else 64.0
    check(low, float, name, -bound)
    need(low < check(high, float, name, None, bound), 36, f"{name}: low is not below high")
    check(bits, int, f"bits of {name}", 1, 12, LimitError)
    levels = [low + ((high - low) * (k / 2)) / (2**bits - 1) for k in range(2 ** (bits + 1) - 1)]
    form = f"<{len(levels)}f"
    steps = struct.unpack(form, struct.pack(form, *(levels if kind == "uniform" else map(math.exp2, levels))))
    need(all(a < t <= b for a, t, b in zip(steps[::2], steps[1::2], steps[2::2])), 36, f"{name} is too narrow")
    need(name != "scales" or steps[0] > 0, 36, "scales reach 0")
    return steps[::2]


# --- container ------------------------------------------------------------------------------------------------------------


def unzstd(frame, at, limit, size=None):
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

    def __init__(self, data):
        self.data = data
        need(data[:8] == MAGIC and len(data) >= 36, 0, "no .gsd file")
        major, minor, flags, length, count, size, crc = struct.unpack_from("<HHIIIQI", data, 8)
        need((major, minor) == VERSION, 8, f"version {major}.{minor}, not {VERSION[0]}.{VERSION[1]}", VersionError)
        need(size == len(data), 24, f"{len(data)} bytes instead of {size}")
        need(flags in (0, 1), 12, f"flags {flags}")
        need(length <= 1 << 22, 16, f"header of {length} bytes", LimitError)
        need(count <= 1 << 18, 20, f"{count} sections", LimitError)
        start = 36 + length + 28 * count
        need(start <= size, 16, "the file ends before the section table does")
        need(zlib.crc32(data[36:start], zlib.crc32(data[:32])) == crc, 32, "checksum", ChecksumError)
        self.packed = unzstd(data[36 : 36 + length], 36, 1 << 22) if flags else data[36 : 36 + length]
        self.header = Msgpack(self.packed).root
        self.tables = check_header(self.header)
        self.own = 2 + len(LABELS[self.header["labels"]])  # sections of the format in a chunk
        self.chunks = range(len(self.header["chunks"]["images"]))
        self.entries = list(struct.iter_unpack("<HBBIIIIQ", data[36 + length : start]))
        self.number = {(entry[3], entry[0]): i for i, entry in enumerate(self.entries)}
        self.check_table(36 + length, start)

    def check_table(self, at, end):
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

    def streams(self, chunk, name):
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

    def section(self, number):
        """Raw bytes of the section of this number in the table."""
        name, codec, _, chunk, stored, raw, crc, at = self.entries[number]
        data = self.data[at : at + stored]
        need(zlib.crc32(data) == crc, at, "checksum of a section", ChecksumError)
        if codec == 1:
            return unzstd(data, at, 1 << 24, raw)
        return rans(data, self.streams(chunk, name), at) if codec == 2 else data

    def codes(self, chunk, name, at):
        """The codes of every stream of a section of the format."""
        data, result = self.section(self.number[chunk, name]), []
        for bits, n in self.streams(chunk, name):
            high = data[n : 2 * n] if bits > 8 else bytes(n)
            result.append([a | b << 8 for a, b in zip(data[:n], high)])
            data = data[2 * n if bits > 8 else n :]
            need(all(code < 1 << bits for code in result[-1]), at, f"a code of more than {bits} bits")
        return result

    def images(self):
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
                colors = [[r + g & mask for r, g in zip(red, green)], green, [b + g & mask for b, g in zip(blue, green)]]
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


def read_labels(layout, classes, n, streams, at):
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
            need(all(a < b for a, b in zip(own, own[1:])), at, "classes do not ascend")
            row = dict(zip(own, weights[first : first + count]))
            rows.append([row.get(k, 0) for k in range(classes)])
            first += count
    need(all(map(any, rows)), at, "a label without any weight")
    return rows


# --- rANS -----------------------------------------------------------------------------------------------------------------


def rans(data, streams, at):
    """Raw bytes of a section of codec 2."""
    bits, position = "".join(f"{byte:08b}" for byte in data[1:]), 0

    def take(n):
        nonlocal position
        need(position + n <= len(bits), at, "the model ends early")
        position += n
        return int(bits[position - n : position] or "0", 2)

    def zeros():
        one = bits.find("1", position)
        need(one >= 0, at, "the model ends early")
        return one - position + 0 * take(one - position + 1)

    def low_bits(n, order):
        return (1 << n) + take(n) - (1 << order)

    need(data, at, "no bytes")
    need(data[0] <= 8, at, "more than 2^8 lanes", LimitError)
    planes = [(s, shift, min(b - shift, 8)) for s, (b, _) in enumerate(streams) for shift in (0, 8) if b > shift]
    structure = []
    for stream, shift, _ in planes:
        number, thresholds = take(4), [0]
        sources = [s for s in range(stream + (shift == 8)) if take(1)] if number else []
        need(sources or not number, at, "thresholds without a source")
        for _ in range(number):
            thresholds.append(thresholds[-1] + 1 + low_bits(min(zeros(), 13) + 4, 4))
            need(thresholds[-1] <= 65535, at, "a threshold above 65,535")
        structure.append((sources, thresholds[1:], [None if take(1) else take(2) for _ in range(number + 1)]))
    stored = [
        (order, 1 << width)
        for (_, _, width), (_, _, orders) in zip(planes, structure)
        for order in orders
        if order is not None
    ]
    orders = [order for order, symbols in stored for _ in range(symbols)]
    lengths = [zeros() + order for order in orders]
    need(max(lengths, default=0) <= 6, at, "a difference of more than 6 bits")
    numbers = iter([low_bits(n, order) for n, order in zip(lengths, orders)])
    tables = [[frequencies(1 << width, m, numbers, at) for m in s[2]] for (_, _, width), s in zip(planes, structure)]
    need(not take(-position % 8), at, "padding that is not 0")
    start, lanes = 1 + position // 8, 1 << data[0]
    need(len(data) >= start + 4 * lanes and (len(data) - start) % 2 == 0, at, "size of states and words")
    states = list(struct.unpack_from(f"<{lanes}I", data, start))
    need(min(states) >= 1 << 16, at, "a state below 2^16")
    words = iter(struct.unpack(f"<{(len(data) - start) // 2 - 2 * lanes}H", data[start + 4 * lanes :]))
    raw, codes = bytearray(), [[0] * n for _, n in streams]
    for (stream, shift, _), (sources, thresholds, _), by_context in zip(planes, structure, tables):
        symbols = bytearray()
        for i in range(len(codes[stream])):
            total, s = sum(codes[source][i] for source in sources), states[i % lanes]
            f, slot, symbol = by_context[sum(t <= total for t in thresholds)], s % 4096, 0
            while slot >= f[symbol]:
                slot, symbol = slot - f[symbol], symbol + 1
            s = f[symbol] * (s // 4096) + slot
            if s < 1 << 16:
                word = next(words, None)
                need(word is not None, at, "too few words")
                s = s << 16 | word
            states[i % lanes] = s
            symbols.append(symbol)
        codes[stream] = [code | symbol << shift for code, symbol in zip(codes[stream], symbols)]
        raw += symbols
    need(next(words, None) is None, at, "words are left")
    need(set(states) == {1 << 16}, at, "a state does not end at 2^16")
    return bytes(raw)


def frequencies(size, order, numbers, at):
    """One table: flat without an order, else from the next `size` stored numbers."""
    if order is None:
        return [4096 // size] * size
    q, weights = 0, []
    for _ in range(size):
        u = next(numbers)
        q += -(u + 1) // 2 if u % 2 else u // 2
        need(q >= 0, at, "a log-weight below 0")
        need(q <= 48, at, "a log-weight above 48", LimitError)
        weights.append((4 + (q - 1) % 4) << (q - 1) // 4 if q else 0)
    need(any(weights), at, "a table without symbols")
    room = 4096 - sum(w > 0 for w in weights)
    found = [1 + w * room // sum(weights) if w else 0 for w in weights]
    found[found.index(max(found))] += 4096 - sum(found)
    return found


# --- rendering ------------------------------------------------------------------------------------------------------------


def render(header, rows, height, width):
    """Pixels as nested lists [channel][row][column]."""
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


def to_byte(pixel):
    return round(min(max(pixel, 0.0), 1.0) * 255)


# --- command --------------------------------------------------------------------------------------------------------------


def plain(value):
    """A header's value as JSON has it: bytes and integers that JSON readers round become maps."""
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if type(value) is int and abs(value) >= 1 << 53:
        return {"integer": str(value)}
    if type(value) is list:
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if type(value) is dict else value


def describe(data):
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
        "header": plain(file.header),
        "sections": [[e[3], names[e[0]], codecs[e[1]], zlib.crc32(r)] for e, r in zip(file.entries, raw)],
        "counts": [len(gaussians) for _, gaussians in images],
        "labels": [label for label, _ in images],
        "gaussians": rows[:4],
        "gaussians_sha256": hashlib.sha256(values).hexdigest(),
    }


def disagreement(path):
    """What this reader makes of a vector other than its JSON says; None where they agree."""
    expected, data = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
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
        pixels = [p for c in render(found["header"], rows, *picture["size"]) for row in c for p in row]
        near = zip(pixels, picture["pixels"], picture["tolerance"], strict=True)
        if any(abs(a - b) > t for a, b, t in near):
            wrong.append(f"pixels at {picture['size']}")
        if any(b not in (None, to_byte(a)) for a, b in zip(pixels, picture["bytes"], strict=True)):
            wrong.append(f"bytes at {picture['size']}")
    return f"another {', '.join(wrong)}" if wrong else None


def main(path):
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
