from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsdata_tools import usage


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), (" 1H2M3S ", 3723), ("1.5s", 1.5)],
)
def test_durations(text, seconds):
    assert usage.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["90", "", " ", "s", "0s", "-5m", "5 m", "1m1h", "1d", "inf", "1e3s", "९s", "9" * 400 + "h"]
)
def test_a_duration_without_a_unit_is_refused_and_the_message_names_units(text):
    with pytest.raises(usage.UsageError, match="90s, 10m or 2h"):
        usage.duration(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_parts_of_a_duration_add_up(hours, minutes, seconds):
    assert usage.duration(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds


def test_sizes():
    assert usage.image_size("64") == 64
    assert usage.image_size("96x128") == (96, 128)
    for wrong in ("0", "96x0", "x", "96x", "-3", "70000", "1x2x3", "a", ""):
        with pytest.raises(usage.UsageError, match="height x width"):
            usage.image_size(wrong)


@pytest.mark.parametrize("text", ["7/5/6/12", "7,5,6,12", " 7, 5/06 ,12 "])
def test_bit_widths(text):
    assert usage.bit_widths(text) == (7, 5, 6, 12)


@pytest.mark.parametrize(
    "text", ["7/5/6", "7/5/6/6/6", "7/5/6/13", "0/5/6/6", "7//6/6", "-7/5/6/6", "७/5/6/6", "a,b,c,d", "9" * 5000]
)
def test_other_bit_widths_are_refused(text):
    with pytest.raises(usage.UsageError, match="four bit widths from 1 to 12"):
        usage.bit_widths(text)


def test_numbers():
    assert usage.positive_int("1,000") == 1000
    assert usage.nonnegative_int("0") == 0
    assert usage.positive_float("1e-3") == 1e-3
    assert [usage.nonnegative_float(text) for text in ("0", "0.00", ".0", "0e0", "-0", "2.5")] == [0, 0, 0, 0, 0, 2.5]
    assert usage.rate_weight("0.05") == 0.05
    for function, wrong in (
        (usage.positive_int, "0"),
        (usage.positive_int, "1.5"),
        (usage.positive_int, "9" * 30),
        (usage.nonnegative_int, "-1"),
        (usage.positive_float, "0"),
        (usage.nonnegative_float, "-1"),
        (usage.nonnegative_float, "inf"),
        (usage.rate_weight, "10.5"),
        (usage.positive_int, "9" * 19),
        (usage.positive_float, "nan"),
        (usage.positive_float, "inf"),
        (usage.positive_float, "x"),
    ):
        with pytest.raises(usage.UsageError, match="is not"):
            function(wrong)
