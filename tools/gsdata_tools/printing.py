"""Text from files on its way to a terminal or a picture."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    r"""The text with every character that is not printable as its escape (``\x1b``, ``\u202e``).

    A name in a file must not be able to move a terminal's cursor, retitle its window or turn a line around.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def show(text: str) -> None:
    """Print lines on standard output; what its encoding lacks is shown as an escape, never as an error."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
