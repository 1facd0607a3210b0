"""Labels and counts that are no valid index: a training script would read or write beyond an array with them."""

import numpy as np

from gsdata import forging
from victim import attack, good_file

HARD = good_file(labels=[0, 1, 2], class_count=3)
WIDE = good_file(labels=[0, 1, 299], class_count=300)
DENSE = good_file(soft_labels=np.ones((3, 3)))
SPARSE = good_file(soft_labels=np.eye(3, 100))


def with_bytes(good: bytes, section: str, at: int, *values: int, **changes: object) -> bytes:
    """The file with bytes of a section replaced, and keys of its header."""
    header, sections = forging.take_apart(good)
    entry = sections[header["sections"].index(section)]
    entry[4] = entry[4][:at] + bytes(values) + entry[4][at + len(values) :]
    return forging.put_together(header | changes, sections)


attack(
    refused={
        "a class above the last": with_bytes(HARD, "labels", 1, 3),
        "the largest class that fits": with_bytes(HARD, "labels", 1, 255),
        "a class in two bytes above the last": with_bytes(WIDE, "labels", 3, 255),
        "fewer classes than labels say": with_bytes(HARD, "labels", 0, 0, class_count=2),
        "labels of no classes": with_bytes(HARD, "labels", 0, 0, class_count=0),
        "a sparse class above the last": with_bytes(SPARSE, "label.classes", 2, 100),
        "a sparse class twice": with_bytes(SPARSE, "label.counts", 0, 2, 0),
        "more sparse weights than are there": with_bytes(SPARSE, "label.counts", 0, 99),
        "a label without any weight": with_bytes(DENSE, "label.weights", 3, 0, 0, 0),
        "a sparse weight of 0": with_bytes(SPARSE, "label.weights", 0, 0),
        "more Gaussians than are there": with_bytes(HARD, "counts", 0, 255),
        "an image with all Gaussians and one more": with_bytes(HARD, "counts", 0, 7, 0, 0),
        "a code above its quantiser's last": with_bytes(HARD, "gaussians", 12, 64),
        "positions that add up beyond the last": with_bytes(HARD, "gaussians", 0, 255, 255),
    }
)
