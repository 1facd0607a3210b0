"""What a file is that should be a ``.gsd`` and is not: the commonest accidents get their own message."""

from __future__ import annotations

MAGIC = b"\x89GSD\r\n\x1a\n"


def what_else(start: bytes) -> str:
    """What a file is that begins with ``start`` and not with the magic, in words."""
    if not start:
        return "the file is empty"
    if MAGIC.startswith(start):
        return f"truncated: {len(start)} bytes; get it again"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself; run 'git lfs pull'"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page, not a .gsd file; the download link needs a log-in or is wrong"
    if start[:2] == b"\xc2\x89" or start[:3] == b"\xef\xbf\xbd" or start[:4] == b"GSD\n":
        return "damaged by a transfer in text mode (its first byte was changed); transfer it in binary mode"
    if start[:4] == MAGIC[:4]:
        return "damaged by a transfer in text mode (line ends were changed); transfer it in binary mode"
    if start[1:4] == b"GSD":
        return "the first byte lost its high bit or was damaged in transfer; transfer it in binary mode"
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return "this is a pickle or zip archive (torch.save?), not a .gsd file; gsdata never unpickles"
    return f"not a .gsd file: it starts with {start[:8]!r}, expected {MAGIC!r}"
