"""Counts that ask for memory or time: in the preamble, in the header, just above the limits and at them."""

import numpy as np

import gsdata
from gsdata import forging, testing
from victim import attack, good_file

header, sections = forging.take_apart(good_file())


def chunks(images: int, gaussians: int, number: int = 1, **changes: object) -> bytes:
    """A header that says ``number`` chunks of so many images and Gaussians; no sections to match."""
    columns = {"gaussians": [gaussians] * number, "images": [images] * number, "quantizers": [0] * number}
    return forging.put_together(header | {"chunks": columns} | changes, sections)


def soft_labels(classes: int, images: int, number: int) -> bytes:
    """Chunks of sparse soft labels of one class: a few bytes for each row of so many weights."""
    weights = np.zeros((1, classes))
    weights[0, 0] = 1
    codes = testing.make_codes(0, [0], channels=1)
    base, _ = forging.take_apart(gsdata.to_bytes(codes, soft_labels=weights, level=0))
    base["chunks"] = {"gaussians": [0], "images": [images], "labels": [images], "quantizers": [0]}
    base["chunks"] = {key: column * number for key, column in base["chunks"].items()}
    raw = {
        "counts": bytes(2 * images),
        "label.counts": b"\1" * images + bytes(images),
        "label.classes": bytes(2 * images),
        "label.weights": b"\xff" * images,
        "gaussians": b"",
    }
    entries = []
    for chunk in range(number):
        for place, name in enumerate(base["sections"]):
            packed = forging.frame(raw[name])
            codec = int(len(packed) < len(raw[name]))
            entries.append([place, codec, 0, chunk, packed if codec else raw[name], len(raw[name])])
    return forging.put_together(base, entries)


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
        "images of 2^20 pixels a side": forging.put_together(
            header | {"gaussians": header["gaussians"] | {"size": [1 << 20, 1 << 20]}}, sections
        ),
    },
    harmless={
        "1 GiB of soft labels in 256 chunks": soft_labels(65535, 64, 256),
    },
)
