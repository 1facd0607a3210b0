"""FORMAT.md is what the code does: its example, its numbers, its names, and readers written from its text alone agree (spec/)."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata
import make_vectors
import reader
from gsdata import canonical, container, errors, header, quantize, streams, writing
from gsdata.quantize import Quantizer, QuantizerSet
from gsdata.rans import coder, model
from gsdata.recipe import Recipe
from gsdata.testing import make_codes
from vectors.valid import example

MINUS = "\N{MINUS SIGN}"
TEXT = (Path(__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")


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
    assert parsed == example(), f"put this into FORMAT.md:\n{hex_dump(example())}"
    assert dump == hex_dump(parsed)
    gsdata.open(parsed).verify()


def test_the_ranges_under_the_dump_are_those_of_the_file() -> None:
    file = gsdata.open(example())
    size, first = len(example()), file.sections[0].offset
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
    gaussians = gsdata.open(example()).gaussians()
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
            clamp=True,
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
    assert table("\n`chunks`, lists") == set(raw["chunks"])
    assert table("\n`gaussians`:") == set(raw["gaussians"])
    assert table("\n`recipe`:") == set(raw["recipe"])
    for layout in ("none", "hard", "dense", "sparse"):
        for name in streams.section_names(layout):  # type: ignore[arg-type]
            assert f"`{name}`" in TEXT


# --- the independent reader of spec/, on files that hypothesis would not think of ------------------------------------------


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
    assert json.loads(json.dumps(reader.describe(data))) == json.loads(json.dumps(make_vectors.describe(data)))
    assert gsdata.open(data).header.label_layout == labels


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
