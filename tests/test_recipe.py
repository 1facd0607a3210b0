"""The training recipe in a header."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata import canonical
from gsdata.recipe import Recipe, agreed

NUMBERS = st.floats(-1e6, 1e6)


@given(
    st.integers(1, 4).flatmap(
        lambda c: st.fixed_dictionaries(
            {},
            optional={
                "lr": NUMBERS,
                "momentum": NUMBERS,
                "weight_decay": NUMBERS,
                "augment": st.text(),
                "model": st.text(),
                "epochs": st.integers(1, 2**40),
                "steps": st.integers(1, 2**40),
                "batch_size": st.integers(1, 2**40),
                "zca": st.dictionaries(st.text(), st.one_of(NUMBERS, st.text())),
            },
        ).map(lambda d: d | {"mean": (0.5,) * c, "std": (0.25,) * c})
    )
)
def test_round_trip_through_the_header(fields: dict[str, Any]) -> None:
    recipe = Recipe(**fields)
    stored = canonical.decode(canonical.encode(recipe.to_dict()))
    assert Recipe.from_dict(stored) == recipe
    assert canonical.encode(Recipe.from_dict(stored).to_dict()) == canonical.encode(recipe.to_dict())


def test_what_is_not_said_is_not_stored() -> None:
    assert Recipe().to_dict() == {"value_space": "srgb-unit"}
    assert Recipe(lr=1).to_dict() == {"value_space": "srgb-unit", "lr": 1.0}
    assert isinstance(Recipe(lr=1).lr, float)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.5,)}, "together"),
        ({"std": (0.5,)}, "together"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "together"),
        ({"mean": (0.5,), "std": (0.0,)}, "positive"),
        ({"mean": 0.5, "std": 0.5}, "list of numbers"),
        ({"mean": ("a",), "std": (1.0,)}, "finite number"),
        ({"lr": float("nan")}, "finite"),
        ({"lr": True}, "finite"),
        ({"momentum": "0.9"}, "finite"),
        ({"epochs": 0}, "positive integer"),
        ({"steps": 1.0}, "positive integer"),
        ({"batch_size": True}, "positive integer"),
        ({"model": 3}, "text"),
        ({"value_space": None}, "text"),
        ({"zca": "cifar10"}, "mapping"),
    ],
)
def test_bad_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown recipe field 'learning_rate'"):
        Recipe.from_dict({"learning_rate": 0.1})


def test_clamp_is_true_or_left_out() -> None:
    assert Recipe(clamp=True).to_dict()["clamp"] is True
    assert "clamp" not in Recipe().to_dict()
    for bad in (False, 1, "yes"):
        with pytest.raises(ValueError, match="clamp must be true or left out"):
            Recipe(clamp=bad)  # type: ignore[arg-type]


def test_recipes_of_one_set_agree_or_say_only_whether_all_are_clamped() -> None:
    first, second = Recipe(lr=0.1, clamp=True), Recipe(lr=0.2, clamp=True)
    assert agreed([first, first]) == first
    assert agreed([first, second]) == Recipe(clamp=True)
    assert agreed([first, second, Recipe()]) == Recipe()
