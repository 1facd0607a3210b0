"""Write spec/vectors again: python tests/make_vectors.py

Files come from gsdata's writer, or are put together by hand where no writer would make them; what a good file holds is what gsdata reads.
The readers in spec/ share no code with either. With one zstd version every byte is the same every time; versions.json says which.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

import gsdata
from gsdata.container import CODEC_NAMES, VERSION
from gsdata.kernels import reference
from vectors.invalid import invalid
from vectors.valid import RENDERS, valid

FOLDER = Path(__file__).parents[1] / "spec" / "vectors"


def plain(value: Any) -> Any:
    """A header's value in JSON: bytes, and integers that some readers of JSON round, become maps."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if type(value) is int and abs(value) >= 1 << 53:
        return {"integer": str(value)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def describe(data: bytes) -> dict[str, Any]:
    """What a good file holds."""
    file = gsdata.open(data)
    file.verify()
    own = [raw for chunk in range(len(file._chunks)) for raw in file._chunks.raw(chunk).items()]
    raws = iter([zlib.crc32(raw) for _, raw in own])
    sections = [
        (s, zlib.crc32(file.read_optional(s.name)) if s.name in file._chunks.optional else next(raws))
        for s in file.sections
    ]
    gaussians = file.gaussians()
    rows = np.concatenate([gaussians.means, gaussians.cholesky, gaussians.colors], axis=1)
    weights = file._labels.weights
    labels = [None if label < 0 else label for label in file.labels.tolist()] if weights is None else weights.tolist()
    return {
        "sha256": file.sha256,
        "content_id": file.content_id,
        "header": plain(file._container.header),
        "sections": [[s.chunk, s.name, CODEC_NAMES[s.codec], crc] for s, crc in sections],
        "counts": file.counts.tolist(),
        "labels": labels,
        "gaussians": rows[:4].tolist(),
        "gaussians_sha256": hashlib.sha256(rows.astype("<f4").tobytes()).hexdigest(),
    }


def picture(gaussians: gsdata.Gaussians, image: int, size: tuple[int, int]) -> dict[str, Any]:
    """An image at one size: pixels channel by channel and row by row, how far off each may be, and as bytes.

    A byte is None where the exact value is so near a half that either neighbour is right (FORMAT.md, "Rendering").
    """
    pixels = reference.render(gaussians, size, [image])[0].reshape(-1)
    scale = max(1.0, max(size) / 128)
    tolerance = 1e-5 * scale * (1 + reference.magnitude(gaussians, size, [image])[0].reshape(-1))
    scaled = np.clip(pixels, 0, 1) * 255
    near_half = np.abs(scaled - np.floor(scaled) - 0.5) < np.maximum(0.01, 255 * tolerance)
    return {
        "image": image,
        "size": list(size),
        "pixels": [round(float(p), 9) for p in pixels],
        "tolerance": [round(float(t), 9) for t in tolerance],
        "bytes": [None if half else int(b) for half, b in zip(near_half, np.rint(scaled), strict=True)],
    }


def vectors() -> dict[str, bytes]:
    """Every file of spec/vectors by its path there."""
    found: dict[str, bytes] = {}

    def add(name: str, data: bytes, expected: dict[str, Any]) -> None:
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in expected.items()]
        found[f"{name}.gsd"] = data
        found[f"{name}.json"] = ("{\n" + ",\n".join(lines) + "\n}\n").encode()

    for name, (rules, data) in valid().items():
        add(f"valid/{name}", data, {"rules": rules, **describe(data)})
    for name, (rules, data, sizes) in RENDERS.items():
        gaussians = gsdata.open(data).gaussians()
        pictures = [picture(gaussians, image, size) for image in range(gaussians.num_images) for size in sizes]
        add(f"render/{name}", data, {"rules": rules, **describe(data), "renders": pictures})
    for name, (rules, error, offset, data) in invalid().items():
        add(f"invalid/{name}", data, {"rules": rules, "error": error, "offset": offset})
    versions = {"format": ".".join(map(str, VERSION)), "zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}
    found["versions.json"] = (json.dumps(versions) + "\n").encode()
    return found


def main() -> None:
    """Replace the folder's files by new ones."""
    made = vectors()
    for path in FOLDER.glob("**/*.*"):
        if str(path.relative_to(FOLDER)) not in made:
            path.unlink()
    for name, data in made.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(data)
    print(f"{len(made)} files, {sum(map(len, made.values())):,} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
