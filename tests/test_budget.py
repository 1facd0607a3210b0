"""Budgets: bytes and IPC, and what fits into them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata.budget import Budget, bytes_per_image, ipc_bytes, ipc_of, plan
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
    assert 75 <= found.images_per_class <= 82
    assert found.gaussians_per_image >= 27


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
