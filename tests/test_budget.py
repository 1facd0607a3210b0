"""Budgets: bytes and IPC, and what fits into them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata.budget import CODED_BITS, Bits, Budget, bytes_per_image, coded_bits, default_bits, ipc_bytes, ipc_of, plan
from gsdata.errors import BudgetError


def test_ipc_one_of_cifar10() -> None:
    assert ipc_bytes(1, 10, 3, (32, 32)) == 122_880
    assert ipc_bytes(1, 10, 3, (32, 32), "uint8") == 30_720
    assert ipc_bytes(10, 10, 1, (28, 28)) == 10 * 10 * 28 * 28 * 4
    assert bytes_per_image(3, (128, 128)) == 196_608
    assert ipc_of(122_880, 10, 3, (32, 32), "uint8") == 4.0
    assert ipc_of(3072, 0, 3, (32, 32), "uint8") == 1.0
    with pytest.raises(ValueError, match="convention"):
        bytes_per_image(3, (32, 32), "float16")  # type: ignore[arg-type]
    for ipc, classes in ((0, 10), (1, 0), (-1, 10)):
        with pytest.raises(BudgetError):
            ipc_bytes(ipc, classes, 3, (32, 32))


@given(st.integers(1, 100), st.integers(1, 1000), st.integers(1, 4), st.sampled_from(["float32", "uint8"]))
def test_ipc_and_bytes_are_inverse(ipc: int, classes: int, channels: int, convention: str) -> None:
    size = (7, 5)
    assert ipc_of(ipc_bytes(ipc, classes, channels, size, convention), classes, channels, size, convention) == ipc


def test_total() -> None:
    assert Budget(1, 20, 300, 4000).total == 4321


OPTIONAL = st.one_of(st.none(), st.integers(-3, 100_000))


@given(st.integers(0, 10**8), st.integers(1, 1000), OPTIONAL, OPTIONAL, st.integers(1, 100), OPTIONAL)
def test_a_plan_fits_or_is_refused(
    budget: int, classes: int, images: int | None, gaussians: int | None, bits: int, most: int | None
) -> None:
    try:
        found = plan(
            budget,
            classes,
            images_per_class=images,
            gaussians_per_image=gaussians,
            bits_per_gaussian=bits,
            max_images_per_class=most,
        )
    except BudgetError:
        return
    assert found.images_per_class == (images or found.images_per_class) >= 1
    assert found.gaussians_per_image == (gaussians or found.gaussians_per_image) >= 1
    assert found.gaussians_per_image <= 65_535
    assert found.images_per_class * classes * found.gaussians_per_image <= found.gaussians
    assert found.gaussians * bits / 8 + 1000 <= budget
    if images is None and most is not None:
        assert found.images_per_class <= max(1, most)


def test_plan_of_cifar10_ipc_1() -> None:
    found = plan(122_880, 10, bits_per_gaussian=44)
    assert found.images_per_class == (122_880 - 1000) * 8 // 44 // 230 == 96
    assert found.gaussians_per_image == 23
    more = plan(122_880, 10)
    assert more.images_per_class > 96  # measured bits are fewer
    assert more.bits == default_bits((32, 32), 23)


@given(st.integers(3000, 10**8), st.integers(1, 20), st.integers(1, 300), st.sampled_from([(32, 32), (128, 96)]))
def test_images_that_are_given_share_what_the_budget_holds(
    budget: int, classes: int, images: int, size: tuple[int, int]
) -> None:
    try:
        found = plan(budget, classes, images_per_class=images, size=size)
    except BudgetError:
        assert (budget - 1000) * 8 < classes * images * 60
        return
    each = coded_bits(found.bits, size, found.gaussians_per_image)
    if found.gaussians_per_image < 65_535:
        spent = 1000 + found.gaussians * each / 8
        assert 0.85 * budget - 100 < spent < 1.15 * budget + 100
        assert found.gaussians - classes * images < classes * images * found.gaussians_per_image <= found.gaussians


RESULT = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "allocation.json").read_text())


def test_coded_bits_are_the_measured_ones() -> None:
    assert list(CODED_BITS) == RESULT["model"]["coded_bits"]
    off, planned = [], []
    for measured in RESULT["sets"]:
        height, width, channels = measured["shape"]
        for run in measured["runs"]:
            bits = coded_bits(Bits(*run["bits"]), (height, width), run["gaussians"], channels)
            off.append(abs(bits / run["bits_per_gaussian"] - 1))
            if tuple(run["bits"]) == default_bits((height, width), run["gaussians"]):
                planned.append(off[-1])
    assert len(planned) == 11
    assert max(planned) < 0.05
    assert max(off) < 0.1
    assert sum(off) / len(off) < 0.02


def test_default_bits_are_nearly_the_best_that_were_measured() -> None:
    losses = [
        entry["best"][0]["psnr_mean"] - entry["planned"]["psnr_mean"]
        for measured in RESULT["sets"]
        for entry in measured["best"]
    ]
    assert len(losses) > 15
    assert min(losses) >= 0
    assert max(losses) < 0.12


def test_default_bits_grow_with_the_count_and_with_long_images() -> None:
    widths = [default_bits((32, 32), count) for count in (1, 20, 42, 250, 1000, 65_535)]
    assert widths == sorted(widths)
    assert widths[2] == Bits(7, 5, 6, 6)
    assert all(1 <= width <= 12 for bits in widths for width in bits)
    assert default_bits((8, 512), 42).means > default_bits((64, 64), 42).means
    assert default_bits((512, 8), 42) == default_bits((8, 512), 42)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        (1000, {}),
        (0, {}),
        (5000, {"images_per_class": 10_000}),
        (5000, {"gaussians_per_image": 10_000}),
        (10**9, {"gaussians_per_image": 65_536}),
        (10**6, {"images_per_class": 0}),
        (10**6, {"gaussians_per_image": 0}),
        (10**6, {"images_per_class": -1, "gaussians_per_image": 3}),
    ],
)
def test_impossible_plans(budget: int, options: dict[str, int]) -> None:
    with pytest.raises(BudgetError):
        plan(budget, 10, **options)


def test_plans_of_nothing_and_of_too_much_are_refused() -> None:
    assert plan(10**12, 10).images_per_class == 2**24 // 10
    with pytest.raises(BudgetError, match="at most 16777216 images"):
        plan(10**12, 10, images_per_class=2**23)
    for wrong in ({"size": (0, 0)}, {"channels": 7}, {"bits": Bits(0, 1, 1, 1)}, {"bits": Bits(13, 1, 1, 1)}):
        with pytest.raises(ValueError, match="a plan needs"):
            plan(10**6, 10, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="widths need"):
        default_bits((32, 32), float("nan"))
