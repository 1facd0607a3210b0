"""Names of class folders: whatever a file calls its classes, nothing is written outside the output folder.

The rule, which docs/commands.md states: a folder has the name of its class if all names are safe as they are and sorting them,
as readers of class folders do, gives the classes their numbers again. Otherwise every folder is called by the class's
number, ``_`` and what is left of its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gsdata_tools.source_types import is_split_folder

MOST_BYTES = 100
_PUNCTUATION = frozenset(" _-+.,'()&=@#!")
# What Windows takes for a device, whatever follows a dot.
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CLOCK\$|(COM|LPT)[0-9¹²³])(\..*)?", re.IGNORECASE)


def safe_name(name: str) -> str:
    """What may stand in a path: letters, digits and a few marks, at most 100 bytes of UTF-8; may be empty.

    Other characters (slashes, ``:``, NUL, line breaks, ...) become ``_``; dots and spaces are cut off at both ends; so ``.``
    and ``..`` are nothing. Names that Windows takes for devices get a ``_``.
    """
    plain = "".join(c if c.isalnum() or c in _PUNCTUATION else "_" for c in name).strip(" .")
    plain = plain.encode()[:MOST_BYTES].decode(errors="ignore").rstrip(" .")
    return f"_{plain}" if _DEVICE.fullmatch(plain) else plain


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder name for each class, all different on every file system, in an order that sorting does not change."""
    safe = [safe_name(name) for name in classes]
    as_they_are = (
        all(safe)
        and safe == list(classes)
        and safe == sorted(safe)
        and len({name.casefold() for name in safe}) == len(safe)
        and not any(map(is_split_folder, safe))
    )
    if as_they_are:
        return safe
    digits = len(str(max(len(safe) - 1, 0)))
    return [f"{number:0{digits}d}_{name}".rstrip("_") for number, name in enumerate(safe)]
