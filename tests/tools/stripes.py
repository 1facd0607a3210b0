"""Images that are easily told apart, and ``gsd-eval`` on them: what its tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gsdata
from gsdata_tools import evaluate

SIDE = 8
CLASSES = ("across", "down", "plain")


def one_thread() -> Iterator[None]:
    """Tiny tensors are faster on one thread, above all where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    wave = np.repeat([60, 200], 2)[np.arange(SIDE) % 4]
    shapes = (np.tile(wave[:, None], (1, SIDE)), np.tile(wave[None], (SIDE, 1)), np.full((SIDE, SIDE), 130))
    images = np.stack([shapes[label] for label in labels])[..., None] + rng.normal(0, 12, (count, SIDE, SIDE, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int64)


def write_images(root: Path) -> Path:
    """A folder of splits of class folders."""
    for split, count, seed in (("train", 120, 0), ("test", 45, 1)):
        images, labels = stripes(count, seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04d}.png")
    return root


def write_gsd(path: Path) -> Path:
    """30 other images of the same classes as a file."""
    from gsdata_tools.fit import fit_images

    images, labels = stripes(30, 2)
    codes = fit_images(images, 8, steps=150, sweeps=1).codes
    recipe = gsdata.Recipe(mean=(0.5,) * 3, std=(0.2,) * 3, augment="dsa:crop_cutout", model="ConvNet-D2")
    gsdata.save(path, codes, labels=labels, classes=CLASSES, recipe=recipe)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = evaluate.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def result_of(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json", "--quiet")
    assert code == 0, err
    value: dict[str, Any] = json.loads(out)
    return value
