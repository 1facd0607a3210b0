"""The one hierarchy of errors that gsdata raises on purpose.

Every message is one line and says where, what was found, what was expected and what to do about it. Commands
print it and exit with code 1 (a bad file, a failed check) or 2 (a request that cannot be met as typed).
"""

from __future__ import annotations


class GsdError(Exception):
    """Base class: catching it catches everything that gsdata raises on purpose."""


class FormatError(GsdError):
    """The bytes are not a well-formed ``.gsd`` file of a version this reader knows."""


class VersionError(FormatError):
    """The file is well-formed as far as one can tell, but needs a newer (or another pre-release) reader."""


class ChecksumError(FormatError):
    """Stored bytes do not match their checksum: the file was damaged after it was written."""


class LimitError(FormatError):
    """A size or count is outside the limits of FORMAT.md; raised before anything is allocated for it."""


class BudgetError(GsdError):
    """A byte budget cannot be met; raised before the first iteration, never after work was done."""
