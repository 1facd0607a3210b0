"""Counts that ask for memory or time: in the preamble, in the header, just above the limits and at them."""

import numpy as np

import gsdata
from gsdata import forging, testing
from gsdata.quantize import Quantizer, QuantizerSet
from victim import attack, good_file

header, sections = forging.take_apart(good_file())


def chunks(images: int, gaussians: int, number: int = 1, **changes: object) -> bytes:
    """A header that says ``number`` chunks of so many images and Gaussians; no sections to match."""
    columns = {"gaussians": [gaussians] * number, "images": [images] * number, "quantizers": [0] * number}
    return forging.put_together(header | {"chunks": columns} | changes, sections)


def planes(codes: np.ndarray) -> bytes:
    """Codes of more than 8 bits as byte planes."""
    return np.concatenate([codes & 255, codes >> 8]).astype(np.uint8).tobytes()


def soft_labels(classes: int, images: int, number: int, named: int = 1) -> bytes:
    """Chunks of sparse soft labels that name so many classes: a few bytes for each row of so many weights."""
    weights = np.zeros((1, classes))
    weights[0, 0] = 1
    entries = images * named
    codes = testing.make_codes(0, [0], channels=1)
    base, _ = forging.take_apart(gsdata.to_bytes(codes, soft_labels=weights, level=0))
    base["chunks"] = {"gaussians": [0], "images": [images], "labels": [entries], "quantizers": [0]}
    base["chunks"] = {key: column * number for key, column in base["chunks"].items()}
    raw = {
        "counts": bytes(2 * images),
        "label.counts": planes(np.full(images, named)),
        "label.classes": planes(np.tile(np.arange(named), images)),
        "label.weights": b"\xff" * entries,
        "gaussians": b"",
    }
    table = []
    for chunk in range(number):
        for place, name in enumerate(base["sections"]):
            packed = forging.frame(raw[name])
            codec = int(len(packed) < len(raw[name]))
            table.append([place, codec, 0, chunk, packed if codec else raw[name], len(raw[name])])
    return forging.put_together(base, table)


def one_lane(images: int, gaussians: int) -> bytes:
    """A chunk whose codes all follow each other in one lane, by flat tables."""
    wide = QuantizerSet(*[Quantizer("log2", -1.0, 1.0, 12)] * 4)
    base, (counts, coded) = forging.take_apart(
        gsdata.to_bytes(testing.make_codes(0, [0] * images, channels=4, sets=(wide,)), level=0)
    )
    base["chunks"]["gaussians"] = [images * gaussians]
    counts[4] = planes(np.full(images, gaussians))
    model = int("00001" * 18, 2) << 6  # no thresholds, a flat table: for both planes of nine streams
    coded[1], coded[4], coded[5] = 2, b"\0" + model.to_bytes(12, "big") + b"\0\0\1\0", 18 * images * gaussians
    return forging.put_together(base, [counts, coded])


attack(
    refused={
        "a header of 4 GiB": forging.put_together(header, sections, header_length=2**32 - 1),
        "4 billion sections": forging.put_together(header, sections, section_count=2**32 - 1),
        "a file of 16 EiB": forging.put_together(header, sections, file_length=2**64 - 1),
        "4 billion images in a chunk": chunks(2**32, 0),
        "16 million images in a chunk": chunks(1 << 24, 0),
        "2^63 Gaussians in a chunk": chunks(1, 2**63),
        "17 million images in 260 chunks": chunks(1 << 16, 0, 260),
        "10,000 chunks and three images": chunks(65536 // 64, 4096, 10_000),
        "65,536 images of 65,535 soft classes": chunks(1 << 16, 0, class_count=65535, labels="dense"),
        "4.7 million codes one after another": one_lane(8, 1 << 15),
        "images of 2^20 pixels a side": forging.put_together(
            header | {"gaussians": header["gaussians"] | {"size": [1 << 20, 1 << 20]}}, sections
        ),
    },
    harmless={
        "1 GiB of soft labels in 256 chunks": soft_labels(65535, 64, 256),
        "4 million weights in a chunk": soft_labels(65535, 64, 1, named=65535),
    },
)
