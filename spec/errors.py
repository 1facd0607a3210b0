"""The errors of FORMAT.md."""


class FormatError(Exception):
    """What FORMAT.md forbids; `offset` is where in the file."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(f"offset {offset}: {text}")
        self.offset = offset


class VersionError(FormatError):
    """A version or feature that this reader does not know."""


class ChecksumError(FormatError):
    """Stored bytes that are not those that were written."""


class LimitError(FormatError):
    """More than a limit allows."""


def need(condition: object, offset: int, text: str, error: type[FormatError] = FormatError) -> None:
    """Refuse the file unless the condition holds."""
    if not condition:
        raise error(offset, text)
