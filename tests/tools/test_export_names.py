from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata_tools.export_names import MOST_BYTES, folder_names, safe_name

TRICKS = [
    "../x",
    "a/b",
    "CON",
    "",
    "y" * 300,
    "nul\0byte",
    "..",
    ".",
    "a\\b",
    "C:\\x",
    ".hidden",
    "train",
    "~",
    "com1.txt",
    "\u202eabc",
]


@pytest.mark.parametrize(
    "classes", [["cat", "dog"], ["0", "1", "2"], ["A b", "a-b", "été"], ["n01440764", "n02102040"]]
)
def test_safe_names_in_sorting_order_stay(classes: list[str]) -> None:
    assert folder_names(classes) == classes


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["dog", "cat"], ["0_dog", "1_cat"]),  # sorting would number them otherwise
        (["Cat", "cat"], ["0_Cat", "1_cat"]),  # one folder where case does not count
        (["a", "train", "val"], ["0_a", "1_train", "2_val"]),  # splits, not classes, to readers of folders
        ([str(k) for k in range(11)], [f"{k:02d}_{k}" for k in range(11)]),
        (["../x", "a/b", "CON", ""], ["0__x", "1_a_b", "2__CON", "3"]),
    ],
)
def test_other_names_get_the_number_of_their_class(classes: list[str], expected: list[str]) -> None:
    assert folder_names(classes) == expected


@given(st.lists(st.one_of(st.sampled_from(TRICKS), st.text(max_size=120)), min_size=1, max_size=30, unique=True))
def test_folders_are_different_sorted_and_one_step_below(classes: list[str]) -> None:
    folders = folder_names(classes)
    assert folders == sorted(folders)
    assert len({name.casefold() for name in folders}) == len(classes)
    for name in folders:
        assert name == PurePosixPath(name).name == PureWindowsPath(name).name
        assert name not in ("", ".", "..")
        assert name[0] != "."
        assert not set(name) & set('\0/\\:*?"<>|\n')
        assert len(name.encode()) <= MOST_BYTES + 5


def test_names_of_devices() -> None:
    assert [safe_name(name) for name in ("con", "nul.png", "LPT1", "console")] == [
        "_con",
        "_nul.png",
        "_LPT1",
        "console",
    ]
