"""Hypothesis strategies for code that reads Gaussians or ``.gsd`` files: batches from fitted-looking to pathological, codes, files.

Structure (images, counts, channels, size, antialias, kinds, quantisers) is drawn by hypothesis and shrinks; values come from a
NumPy generator seeded by one drawn integer, which is fast.

    from hypothesis import given
    from gsdata import testing

    @given(testing.files())
    def test_my_reader(data): ...
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gsdata import mutating
from gsdata.file import to_bytes
from gsdata.gaussians import ANTIALIAS_MODES, Antialias, Gaussians
from gsdata.quantize import Codes, Quantizer, QuantizerKind, QuantizerSet

try:
    from hypothesis import strategies as st
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "gsdata.testing needs hypothesis: pip install 'gsdata[testing]'", name="hypothesis"
    ) from None

__all__ = [
    "KINDS",
    "SET",
    "codes",
    "damaged_files",
    "draw_values",
    "files",
    "gaussians",
    "indices_of",
    "make_codes",
    "make_gaussians",
    "quantizer_sets",
    "quantizers",
    "sizes",
]

Floats: TypeAlias = NDArray[np.float32]
KINDS = ("fitted", "needle", "tiny", "huge", "off-image")
"""needle: axis ratio above 1000; tiny: far below a pixel; huge: far above the image; off-image: means up to 3."""


def draw_values(
    rng: np.random.Generator, kind: str, count: int, channels: int, size: tuple[int, int]
) -> tuple[Floats, Floats, Floats]:
    """Means (count, 2), cholesky (count, 3) and colors (count, channels) of one ``KINDS``, float32."""
    means = rng.uniform(-1.05, 1.05, (count, 2))
    scale = np.exp(rng.normal(np.log(2.0), 0.5, (count, 2)))
    shear = rng.normal(0.0, 1.0, count)
    colors = rng.normal(0.0, 0.5, (count, channels))
    if kind == "needle":
        scale = np.stack([rng.uniform(20, 300, count), rng.uniform(0.004, 0.02, count)], 1)
        shear = rng.choice([0.0, 1.0, 20.0, -300.0], count) * rng.uniform(0.5, 1, count)
        upright = rng.random(count) < 0.3
        scale[upright] = scale[upright, ::-1]
    elif kind == "tiny":
        scale, shear = 10.0 ** rng.uniform(-4, -1, (count, 2)), rng.normal(0, 1e-2, count)
    elif kind == "huge":
        scale, shear = max(size) * 10.0 ** rng.uniform(0, 3, (count, 2)), rng.normal(0, max(size), count)
    elif kind == "off-image":
        means = rng.uniform(-3, 3, (count, 2))
        scale *= 3.0
    cholesky = np.stack([scale[:, 0], shear, scale[:, 1]], 1)
    return means.astype(np.float32), cholesky.astype(np.float32), colors.astype(np.float32)


def make_gaussians(
    seed: int,
    counts: Sequence[int],
    *,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    kinds: Sequence[str] = ("fitted",),
    antialias: Antialias = "box-normalized",
    background: bool = True,
    opacities: bool = False,
) -> Gaussians:
    """A batch of NumPy Gaussians, image b of kind ``kinds[b % len(kinds)]`` ("mixed": all kinds in turn)."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[Floats, Floats, Floats]] = []
    for image, count in enumerate(counts):
        kind = kinds[image % len(kinds)]
        if kind == "mixed":
            parts.extend(draw_values(rng, KINDS[row % len(KINDS)], 1, channels, size) for row in range(count))
        else:
            parts.append(draw_values(rng, kind, count, channels, size))
    parts.append(draw_values(rng, "fitted", 0, channels, size))
    means, cholesky, colors = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Gaussians(
        means,
        cholesky,
        colors,
        np.array(counts, np.int64),
        size,
        opacities=rng.uniform(0.05, 1.0, (len(means), 1)).astype(np.float32) if opacities else None,
        antialias=antialias,
        background=tuple(rng.uniform(0, 1, channels)) if background else (),
    )


def sizes(limit: int = 40) -> st.SearchStrategy[tuple[int, int]]:
    """(H, W), odd and non-square ones included."""
    return st.tuples(st.integers(1, limit), st.integers(1, limit))


@st.composite
def gaussians(
    draw: st.DrawFn,
    *,
    max_images: int = 4,
    max_count: int = 12,
    max_size: int = 40,
    kinds: Sequence[str] = (*KINDS, "mixed"),
    opacities: bool | None = None,
) -> Gaussians:
    """Ragged batches (empty images and empty batches too) of 1 to 4 channels, any antialias mode and background."""
    counts = draw(st.lists(st.integers(0, max_count), min_size=0, max_size=max_images))
    return make_gaussians(
        draw(st.integers(0, 2**32 - 1)),
        counts,
        channels=draw(st.integers(1, 4)),
        size=draw(sizes(max_size)),
        kinds=draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=3)),
        antialias=draw(st.sampled_from(ANTIALIAS_MODES)),
        background=draw(st.booleans()),
        opacities=draw(st.booleans()) if opacities is None else opacities,
    )


@st.composite
def indices_of(draw: st.DrawFn, count: int, *, max_length: int = 5) -> list[int]:
    """Image indices of a batch of ``count`` images, with repeats and negative ones."""
    if count == 0:
        return []
    return draw(st.lists(st.integers(-count, count - 1), max_size=max_length))


SET = QuantizerSet(
    means=Quantizer("uniform", -1.0, 1.0, 8),
    scales=Quantizer("log2", -2.0, 2.0, 6),
    shear=Quantizer("uniform", -1.0, 1.0, 7),
    colors=Quantizer("uniform", 0.0, 1.0, 7),
)
"""The quantisers of ``make_codes`` where none are given."""


def make_codes(
    seed: int,
    counts: Sequence[int],
    *,
    channels: int = 3,
    size: tuple[int, int] = (8, 8),
    sets: tuple[QuantizerSet, ...] = (SET,),
    index: Sequence[int] | None = None,
    antialias: Antialias = "box-normalized",
    background: tuple[float, ...] = (),
) -> Codes:
    """Uniformly drawn codes of images with ``counts`` Gaussians; image b uses the quantisers ``sets[index[b]]``."""
    rng = np.random.default_rng(seed)
    which = np.zeros(len(counts), np.int64) if index is None else np.array(index, np.int64)
    rows = np.repeat(which, counts)

    def draw(name: str, width: int) -> NDArray[np.uint16]:
        limits = np.array([2 ** getattr(s, name).bits for s in sets])[rows]
        return np.asarray(rng.random((len(rows), width)) * limits[:, None], np.uint16)

    scales = draw("scales", 2)
    return Codes(
        means=draw("means", 2),
        cholesky=np.stack([scales[:, 0], draw("shear", 1)[:, 0], scales[:, 1]], axis=1),
        colors=draw("colors", channels),
        counts=np.array(counts, np.int64),
        size=size,
        quantizers=sets,
        quantizer_index=which,
        antialias=antialias,
        background=background,
    )


@st.composite
def quantizers(draw: st.DrawFn, kind: QuantizerKind | None = None, positive: bool = False) -> Quantizer:
    """Quantisers of any width whose range is wide enough for their bits."""
    drawn: QuantizerKind = draw(st.sampled_from(get_args(QuantizerKind)))
    chosen = kind or drawn
    bits = draw(st.integers(1, 12))
    bound = 20.0 if chosen == "log2" else 1000.0
    low = draw(st.floats(0.5 if positive else -bound, bound))
    return Quantizer(chosen, low, low + draw(st.floats(0.5, bound)), bits)


@st.composite
def quantizer_sets(draw: st.DrawFn) -> QuantizerSet:
    """Sets of quantisers, their scales logarithmic or uniform."""
    scales = draw(st.one_of(quantizers("log2"), quantizers("uniform", positive=True)))
    return QuantizerSet(draw(quantizers()), scales, draw(quantizers()), draw(quantizers()))


@st.composite
def codes(draw: st.DrawFn, max_images: int = 8, max_count: int = 12, channels: int | None = None) -> Codes:
    """Ragged codes, empty images included, of 1 to 4 channels, with up to three quantiser sets."""
    sets = tuple(draw(st.lists(quantizer_sets(), min_size=1, max_size=3, unique=True)))
    counts = draw(st.lists(st.integers(0, max_count), max_size=max_images))
    index = draw(st.lists(st.integers(0, len(sets) - 1), min_size=len(counts), max_size=len(counts)))
    channels = channels or draw(st.integers(1, 4))
    return make_codes(
        draw(st.integers(0, 2**32)),
        counts,
        channels=channels,
        size=draw(st.tuples(st.integers(1, 300), st.integers(1, 300))),
        sets=sets,
        index=index,
        antialias=draw(st.sampled_from(ANTIALIAS_MODES)),
        background=tuple(draw(st.lists(st.floats(-2, 2, width=32), min_size=channels, max_size=channels))),
    )


@st.composite
def files(draw: st.DrawFn, max_images: int = 6, max_count: int = 12) -> bytes:
    """Bytes of good files: any ``codes``, every layout of labels, one chunk or several, packed or not, with or without metadata."""
    batch = draw(codes(max_images, max_count))
    images = batch.num_images
    class_count = draw(st.sampled_from([1, 2, 10, 300]))
    labels = st.lists(st.integers(0, class_count - 1), min_size=images, max_size=images)
    kind = draw(st.sampled_from(["none", "hard", "dense", "sparse"] if images else ["none", "hard"]))
    options: dict[str, Any] = {"class_count": class_count}
    if draw(st.booleans()):
        options["classes"] = [f"class {k}" for k in range(class_count)]
    if kind == "hard":
        options["labels"] = np.array(draw(labels), np.int64)
    elif kind != "none":
        soft = np.eye(class_count)[draw(labels)]
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        options["soft_labels"] = soft if kind == "sparse" else soft + rng.random(soft.shape)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    plain = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | text
        | st.binary(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )
    return to_bytes(
        batch,
        **options,
        metadata=draw(st.dictionaries(text, plain, max_size=2)),
        chunk_images=draw(st.integers(1, max(1, images))),
        level=draw(st.sampled_from([0, 3])),
        optional_sections=draw(
            st.dictionaries(st.sampled_from(["test.a", "test.b-c.d"]), st.binary(max_size=40), max_size=2)
        ),
    )


@st.composite
def damaged_files(draw: st.DrawFn, kind: mutating.Kind | None = None) -> bytes:
    """Bytes that are no good file any more, most of them: ``files`` changed by ``mutating.mutate``.

    Args:
        draw: of hypothesis.
        kind: how they are changed, one of ``mutating.KINDS``; None draws one. All but ``damaged`` have right checksums.
    """
    chosen: mutating.Kind = draw(st.sampled_from(mutating.KINDS)) if kind is None else kind
    data = draw(files(max_images=3, max_count=6))
    try:
        return mutating.mutate(data, random.Random(draw(st.integers(0, 2**32 - 1))), chosen).data  # noqa: S311 - no secret
    except ValueError:  # it has no codes to change
        return data
