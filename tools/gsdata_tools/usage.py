"""What a command line says wrong, and the readers of its values: durations, sizes, counts.

``UsageError`` is what every room of this package raises for a request that cannot be met as typed; ``cli.run`` turns it into one
line and exit code 2. It is an ``ArgumentTypeError``, so that the same functions serve as argparse types.
"""

from __future__ import annotations

import argparse
import math
import re
import sys

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,5})(?:[x\u00d7](\d{1,5}))?", re.ASCII)
_WIDTHS = re.compile("[/,]".join([r"\s*0*(1[0-2]|[1-9])\s*"] * 4), re.ASCII)
BIT_WIDTHS = "P/S/L/C"
"""How help names what ``bit_widths`` reads."""


class UsageError(argparse.ArgumentTypeError):
    """The command cannot do what was typed (exit code 2). The message is one line and says what to type instead."""


def note(message: str) -> None:
    """One line on standard error: what a user should know and a program that reads standard output should not."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)


def duration(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``2h`` or ``1h30m``.

    Raises:
        UsageError: there is no unit, or the text is no duration, or it is zero.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not text.strip():
        raise UsageError(f"{text!r} is not a duration with a unit: write 90s, 10m or 2h")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < math.inf:
        raise UsageError(f"{text!r} is not a positive duration: write 90s, 10m or 2h")
    return total


def image_size(text: str) -> int | tuple[int, int]:
    """``"64"`` to 64 (square), ``"96x128"`` to (96, 128), height first; 1 to 65,535 pixels a side."""
    match = _SIZE.fullmatch(text.strip().lower())
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or not all(1 <= side <= 65535 for side in sides):
        raise UsageError(f"{text!r} is not a size in pixels: write 64, or 96x128 for height x width")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _integer(text: str) -> int:
    plain = text.strip().replace(",", "").replace("_", "")
    if not re.fullmatch(r"[+-]?\d+", plain, re.ASCII):
        raise UsageError(f"{text!r} is not a whole number")
    if len(plain) > 18:
        raise UsageError(f"{text[:40]!r} is not a number below 10^18")
    return int(plain)


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if (value := _integer(text)) < 1:
        raise UsageError(f"{text!r} is not at least 1")
    return value


def nonnegative_int(text: str) -> int:
    """A whole number of at least 0."""
    if (value := _integer(text)) < 0:
        raise UsageError(f"{text!r} is not at least 0")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    if (value := _number(text)) <= 0:
        raise UsageError(f"{text!r} is not a number above 0")
    return value


def nonnegative_float(text: str) -> float:
    """A finite number of at least 0."""
    if (value := _number(text)) < 0:
        raise UsageError(f"{text!r} is not a number of at least 0")
    return abs(value)  # no -0.0


def rate_weight(text: str) -> float:
    """A weight of coded bits, from 0 to 10; beyond about 1 files hardly get smaller."""
    if (value := nonnegative_float(text)) > 10:
        raise UsageError(f"{text!r} is not at most 10; useful weights are below 1")
    return value


def minor_part(text: str) -> float:
    """A number above 0 and below 0.5."""
    if (value := positive_float(text)) >= 0.5:
        raise UsageError(f"{text!r} is not below 0.5: the larger part is the class's own")
    return value


def bit_widths(text: str) -> tuple[int, int, int, int]:
    """``"7/5/6/6"`` or ``"7,5,6,6"``: bits of positions, log-scales, shear and colours, 1 to 12 each."""
    match = _WIDTHS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:40]!r} is not four bit widths from 1 to 12, such as 7/5/6/6")
    means, scales, shear, colors = (int(width) for width in match.groups())
    return means, scales, shear, colors


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is not a finite number")
    return value
