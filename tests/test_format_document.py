"""FORMAT.md is what the code does: its example, its numbers, its names, and a reader written from its text alone."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard

import gsdata
from files import make_codes
from gsdata import canonical, container, errors, header, quantize, streams, writing
from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.rans import coder, model
from gsdata.recipe import Recipe

MINUS = "\N{MINUS SIGN}"
TEXT = (Path(__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")


def worked_example() -> bytes:
    quantizers = QuantizerSet(
        means=Quantizer("uniform", -1.0, 1.0, 8),
        scales=Quantizer("log2", -2.0, 2.0, 6),
        shear=Quantizer("uniform", -1.0, 1.0, 7),
        colors=Quantizer("uniform", 0.0, 1.0, 7),
    )
    codes = Codes(
        means=np.array([[128, 127]], np.uint16),
        cholesky=np.array([[32, 64, 16]], np.uint16),
        colors=np.array([[127]], np.uint16),
        counts=np.array([1]),
        size=(2, 3),
        quantizers=(quantizers,),
    )
    return gsdata.to_bytes(codes, level=0)


def hex_dump(data: bytes) -> str:
    lines = []
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{offset:04x}  {row[:8].hex(' '):23}  {row[8:].hex(' '):23}  |{text}|")
    return "\n".join(lines) + "\n"


def test_the_dump_is_the_file() -> None:
    (dump,) = re.findall(r"```hexdump\n(.*?)```", TEXT, re.DOTALL)
    parsed = b"".join(bytes.fromhex(line[6:54]) for line in dump.splitlines())
    assert parsed == worked_example(), f"put this into FORMAT.md:\n{hex_dump(worked_example())}"
    assert dump == hex_dump(parsed)
    gsdata.open(parsed).verify()


def test_the_ranges_under_the_dump_are_those_of_the_file() -> None:
    file = gsdata.open(worked_example())
    size, first = len(worked_example()), file.sections[0].offset
    table = first - 28 * len(file.sections)
    for row in (
        "0000-001f",
        "0020-0023",
        f"0024-{table - 1:04x}",
        f"{table:04x}-{first - 1:04x}",
        f"{first:04x}-{size - 1:04x}",
    ):
        assert f"| {row} |" in TEXT
    assert f"header of {table - 36} bytes, {len(file.sections)} sections, file of {size} bytes" in TEXT


def test_the_values_under_the_dump_are_those_of_the_file() -> None:
    gaussians = gsdata.open(worked_example()).gaussians()
    text = TEXT[TEXT.index("The Gaussian: ") :].replace("\n", " ")
    x, y, l11, l21, l22 = (
        float(number.replace(MINUS, "-")) for number in re.findall(rf"= ({MINUS}?\d\.\d{{7,9}})(?=[, ])", text)
    )
    np.testing.assert_array_equal(gaussians.means, np.float32([[x, y]]))
    np.testing.assert_allclose(gaussians.cholesky, np.float32([[l11, l21, l22]]), rtol=1e-7)
    np.testing.assert_array_equal(gaussians.colors, [[1.0]])


def test_limits() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| `(MAX_\w+)` \|$", TEXT, re.MULTILINE)
    modules = (canonical, container, header, quantize, streams, coder, model)
    code = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith("MAX_") and name != "MAX_BACKGROUND"
    }
    assert {name: int(number.replace(",", "")) for number, name in rows} == code


def test_other_numbers() -> None:
    assert f"at {writing.CHUNK_IMAGES:,} images or {writing.CHUNK_RAW >> 20} MiB of raw bytes".replace(
        "at ", ""
    ) in TEXT.replace("\n", " ")
    assert header.MAX_BACKGROUND == quantize._BOUND["uniform"] == 2.0**24
    assert quantize._BOUND["log2"] == 64
    assert "| preamble | header           | section table" in TEXT
    assert f"{container.PREAMBLE_SIZE} bytes |" in TEXT
    assert f"{container.SECTION.size} bytes x section count" in TEXT
    assert f"version {container.VERSION[0]}.{container.VERSION[1]}" in TEXT.splitlines()[0]
    assert f"* **{container.VERSION[0]}.{container.VERSION[1]}**" in TEXT


def test_every_error_is_named_and_every_named_error_exists() -> None:
    named = set(re.findall(r"`(\w+Error)`", TEXT))
    assert named == {name for name, value in vars(errors).items() if isinstance(value, type)}


def test_every_header_key_and_stream_is_described() -> None:
    full = make_codes(0, [1, 2])
    data = gsdata.to_bytes(
        full,
        soft_labels=np.eye(300)[:2],
        recipe=Recipe(
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            zca={},
            lr=1,
            momentum=1,
            weight_decay=1,
            augment="",
            model="",
            epochs=1,
            steps=1,
            batch_size=1,
        ),
    )
    raw = gsdata.open(data)._container.header

    def table(after: str) -> set[str]:
        part = TEXT[TEXT.index(after) :]
        part = part[part.index("|---|") :]
        return set(re.findall(r"^\| `(\w+)` \|", part[: part.index("\n\n")], re.MULTILINE))

    assert table("All keys MUST be there") == set(raw)
    assert table("\n`chunks`:") == set(raw["chunks"])
    assert table("\n`gaussians`:") == set(raw["gaussians"])
    assert table("\n`recipe`:") == set(raw["recipe"])
    for layout in ("none", "hard", "dense", "sparse"):
        for name in streams.section_names(layout):  # type: ignore[arg-type]
            assert f"`{name}`" in TEXT


# --- an independent reader: struct, zlib, zstandard and msgpack, and the text of FORMAT.md -------------------------------


def bits_of(n: int) -> int:
    return max(1, len(f"{n - 1:b}") if n > 1 else 1)


def rans_like_the_document(data: bytes, count: int, widths: list[int]) -> bytes:
    """Raw bytes of a section of streams of ``count`` codes, symbol by symbol."""
    text = "".join(f"{byte:08b}" for byte in data[1:])
    at = 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return int(text[at - n : at] or "0", 2)

    planes = [(s, shift, min(b - shift, 8)) for s, b in enumerate(widths) for shift in (0, 8) if b > shift]
    models = []
    for stream, shift, bits in planes:
        number = take(4)
        sources = [i for i in range(stream + (shift == 8)) if take(1)] if number else []
        thresholds: list[int] = []
        for _ in range(number):
            zeros = text.index("1", at) - at
            at += zeros
            thresholds.append((thresholds or [0])[-1] + 1 + take(zeros + 5) - 16)
        orders = [None if take(1) else take(2) for _ in range(number + 1)]
        models.append((stream, bits, sources, thresholds, orders))
    differences = [
        order for _, bits, _, _, orders in models for order in orders if order is not None for _ in range(2**bits)
    ]
    zeros_of = []
    for _ in differences:
        zeros_of.append(text.index("1", at) - at)
        at += zeros_of[-1] + 1
    numbers = iter(
        [
            (1 << (zeros + order)) + take(zeros + order) - (1 << order)
            for order, zeros in zip(differences, zeros_of, strict=True)
        ]
    )
    tables: list[list[list[int]]] = []
    for _, bits, _, _, orders in models:
        tables.append([])
        for order in orders:
            if order is None:
                tables[-1].append([4096 >> bits] * 2**bits)
                continue
            q, weights = 0, []
            for _ in range(2**bits):
                z = next(numbers)
                q += -(z + 1) // 2 if z % 2 else z // 2
                assert 0 <= q <= 48
                weights.append(0 if q == 0 else (4 + (q - 1) % 4) << ((q - 1) // 4))
            room = 4096 - sum(w > 0 for w in weights)
            table = [1 + w * room // sum(weights) if w else 0 for w in weights]
            table[table.index(max(table))] += 4096 - sum(table)
            tables[-1].append(table)
    start = 1 + (at + 7) // 8
    assert "1" not in text[at : 8 * (start - 1)]
    lanes = 2 ** data[0]
    states = list(struct.unpack_from(f"<{lanes}I", data, start))
    assert min(states) >= 1 << 16
    words = iter(struct.unpack(f"<{(len(data) - start - 4 * lanes) // 2}H", data[start + 4 * lanes :]))
    raw = b""
    values = [[0] * count for _ in widths]
    for (stream, shift, _), (_, _, sources, thresholds, _), own in zip(planes, models, tables, strict=True):
        symbols = bytearray()
        for i in range(count):
            total = sum(values[source][i] for source in sources)
            table, state = own[sum(t <= total for t in thresholds)], states[i % lanes]
            slot, symbol, first = state & 4095, 0, 0
            while slot >= first + table[symbol]:
                first += table[symbol]
                symbol += 1
            state = table[symbol] * (state >> 12) + slot - first
            states[i % lanes] = state << 16 | next(words) if state < 1 << 16 else state
            symbols.append(symbol)
        for i, symbol in enumerate(symbols):
            values[stream][i] += symbol << shift
        raw += symbols
    assert next(words, None) is None
    assert states == [1 << 16] * lanes
    return raw


def read_like_the_document(data: bytes) -> dict[str, Any]:
    magic, major, minor, flags, header_length, count, length, crc = struct.unpack_from("<8sHHIIIQI", data)
    assert (magic, major, minor, length) == (b"\x89GSD\r\n\x1a\n", 0, 2, len(data))
    assert flags in (0, 1)
    start = 36 + header_length + 28 * count
    assert zlib.crc32(data[36:start], zlib.crc32(data[:32])) == crc
    packed = data[36 : 36 + header_length]
    packed = zstandard.decompress(packed) if flags else packed
    head = msgpack.unpackb(packed)
    stored_sections: dict[tuple[int, str], tuple[bytes, int, int]] = {}
    codecs = set()
    end = start
    for entry in struct.iter_unpack("<HBBIIIIQ", data[36 + header_length : start]):
        name, codec, zero, chunk, stored_size, raw_size, section_crc, offset = entry
        stored = data[offset : offset + stored_size]
        assert (zero, offset, zlib.crc32(stored)) == (0, end, section_crc)
        end = offset + stored_size
        stored_sections[chunk, head["sections"][name]] = stored, codec, raw_size
    assert end == len(data)

    channels, classes, layout = head["gaussians"]["channels"], head["class_count"], head["labels"]
    digest = hashlib.sha256(packed)
    images: list[list[tuple[int, ...]]] = []
    labels: list[Any] = []
    for chunk, (of_chunk, total, number) in enumerate(
        zip(head["chunks"]["images"], head["chunks"]["gaussians"], head["chunks"]["quantizers"], strict=True)
    ):
        widths = {name: quantizer[3] for name, quantizer in head["quantizers"][number].items()}

        def section(name: str, how_many: int, bits: list[int], chunk: int = chunk) -> list[list[int]]:
            data, codec, raw_size = stored_sections[chunk, name]
            codecs.add(codec)
            if codec:
                data = zstandard.decompress(data) if codec == 1 else rans_like_the_document(data, how_many, bits)
            assert len(data) == raw_size
            digest.update(data)
            found = []
            for width in bits:
                low, data = data[:how_many], data[how_many:]
                high = bytes(how_many)
                if width > 8:
                    high, data = data[:how_many], data[how_many:]
                found.append([a + 256 * b for a, b in zip(low, high, strict=True)])
            assert data == b""
            return found

        def codes(name: str, how_many: int, bits: int) -> list[int]:
            return section(name, how_many, [bits])[0]

        counts = codes("counts", of_chunk, 16)
        assert sum(counts) == total
        if layout == "hard":
            labels += codes("labels", of_chunk, bits_of(classes))
        elif layout == "dense":
            flat = codes("label.weights", of_chunk * classes, 8)
            labels += [flat[i * classes : (i + 1) * classes] for i in range(of_chunk)]
        elif layout == "sparse":
            entries = head["chunks"]["labels"][chunk]
            per_image = codes("label.counts", of_chunk, bits_of(classes + 1))
            which = iter(codes("label.classes", entries, bits_of(classes)))
            weights = iter(codes("label.weights", entries, 8))
            for n in per_image:
                row = [0] * classes
                for _ in range(n):
                    row[next(which)] = next(weights)
                labels.append(row)
        groups = ["means", "means", "scales", "scales", "shear", *["colors"] * channels]
        decoded = section("gaussians", total, [widths[group] for group in groups])
        columns, colors = dict(zip(("x", "y", "l11", "l22", "l21"), decoded[:5], strict=True)), decoded[5:]
        if head["transforms"]["color"] == "green-difference":
            modulus = 2 ** widths["colors"]
            green, red, blue = colors
            colors = [
                [(r + g) % modulus for r, g in zip(red, green, strict=True)],
                green,
                [(b + g) % modulus for b, g in zip(blue, green, strict=True)],
            ]
        at = 0
        for n in counts:
            image, x = [], 0
            for i in range(at, at + n):
                x += columns["x"][i]
                rest = [columns[name][i] for name in ("y", "l11", "l21", "l22")]
                image.append((x, *rest, *(color[i] for color in colors)))
            images.append(image)
            at += n
    return {"images": images, "labels": labels, "content_id": digest.hexdigest(), "header": head, "codecs": codecs}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("labels", ["none", "hard", "dense", "sparse"])
def test_an_independent_reader_decodes_the_same(channels: int, labels: str) -> None:
    wide = QuantizerSet(
        Quantizer("uniform", -1.0, 1.0, 11),
        Quantizer("log2", -3.0, 3.0, 9),
        Quantizer("uniform", -1.0, 1.0, 12),
        Quantizer("uniform", -1.0, 1.0, 10),
    )
    narrow = make_codes(0, [0]).quantizers[0]
    codes = make_codes(7, [4, 0, 3, 60, 2], channels=channels, sets=(narrow, wide), index=[0, 0, 1, 1, 0])
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "none": {},
        "hard": {"labels": [0, 299, 256, 1, 2], "class_count": 300},
        "dense": {"soft_labels": rng.random((5, 10)) + 0.1},
        "sparse": {"soft_labels": np.eye(300)[[3, 4, 299, 0, 1]] + np.eye(300)[[7, 5, 0, 0, 1]]},
    }[labels]
    data = gsdata.to_bytes(codes, chunk_images=2, **options)
    file = gsdata.open(data)
    found = read_like_the_document(data)
    assert found["header"]["labels"] == labels
    stored = file.codes()
    rows = np.concatenate([stored.means, stored.cholesky, stored.colors], axis=1).tolist()
    assert [list(row) for image in found["images"] for row in image] == rows
    assert [len(image) for image in found["images"]] == stored.counts.tolist() == codes.counts.tolist()
    assert found["content_id"] == file.content_id
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    if labels == "hard":
        assert found["labels"] == file.labels.tolist()
    elif labels != "none":
        weights = np.array(found["labels"], np.float64)
        np.testing.assert_array_equal((weights / weights.sum(1, keepdims=True)).astype(np.float32), file.soft_labels)


def test_an_independent_reader_decodes_contexts_and_lanes() -> None:
    codes = make_codes(0, [500, 0, 300], size=(9, 9))
    rng = np.random.default_rng(0)
    codes.cholesky[:, 2] = np.clip(codes.cholesky[:, 0] + rng.integers(-1, 2, 800), 0, 63)
    codes.colors[:, 1] = np.minimum(rng.geometric(0.1, 800), 127)
    data = gsdata.to_bytes(codes, labels=rng.integers(0, 3, 3))
    (section,) = (s for s in gsdata.open(data).sections if s.name == "gaussians")
    job = coder.open_job(
        data[section.offset : section.offset + section.stored_size], gsdata.open(data)._chunks.layouts(0)["gaussians"]
    )
    assert len(job.states) == 2
    assert any(len(m.thresholds) for m in job.models)
    found = read_like_the_document(data)
    assert 2 in found["codecs"]
    stored = gsdata.open(data).codes()
    rows = np.concatenate([stored.means, stored.cholesky, stored.colors], axis=1).tolist()
    assert [list(row) for image in found["images"] for row in image] == rows
    assert found["content_id"] == gsdata.open(data).content_id


def test_quantisers_as_the_document_says() -> None:
    for kind, low, high, bits in (("uniform", -0.3, 1.7, 7), ("log2", -3.3, 4.1, 9)):
        values = []
        for k in range(2**bits):
            level = low + ((high - low) * k) / (2**bits - 1)
            values.append(struct.unpack("<f", struct.pack("<f", level if kind == "uniform" else 2.0**level))[0])
        np.testing.assert_allclose(Quantizer(kind, low, high, bits).table, values, rtol=2**-24)  # type: ignore[arg-type]


def test_rendering_as_the_document_says() -> None:
    """Steps 1 to 6, one pixel at a time, with the inverse matrix written out."""
    pytest.importorskip("numba")
    for antialias in ("box-normalized", "box", "none"):
        codes = make_codes(3, [4], channels=2, size=(6, 9), antialias=antialias, background=(0.25, -0.5))
        values = codes.dequantize()
        height, width = 10, 7
        v = 1e-4 if antialias == "none" else 1 / 12
        picture = np.zeros((2, height, width)) + np.array([0.25, -0.5])[:, None, None]
        for (x, y), (l11, l21, l22), color in zip(
            *(np.asarray(a, np.float64) for a in (values.means, values.cholesky, values.colors)), strict=True
        ):
            s = np.diag([width / 9, height / 6])
            sigma = s @ np.array([[l11, 0], [l21, l22]]) @ np.array([[l11, l21], [0, l22]]) @ s
            filtered = sigma + v * np.eye(2)
            a = np.sqrt(np.linalg.det(sigma) / np.linalg.det(filtered)) if antialias == "box-normalized" else 1.0
            for i in range(height):
                for j in range(width):
                    d = np.array([j + 0.5 - (x + 1) * width / 2, i + 0.5 - (y + 1) * height / 2])
                    w = (np.exp(-d @ np.linalg.inv(filtered) @ d / 2) - 2**-10) / (1 - 2**-10)
                    picture[:, i, j] += a * max(w, 0) * color
        found = np.asarray(gsdata.render(values, (height, width), backend="reference"))[0]
        np.testing.assert_allclose(found, picture, atol=1e-6)
