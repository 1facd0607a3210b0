"""Sections that share bytes (how a small zip holds petabytes), leave holes, or lie beyond the file's end."""

import zlib

from gsdata import forging
from victim import attack, good_file

STORED, RAW, CRC, OFFSET = 4, 5, 6, 7
header, sections = forging.take_apart(good_file(optional_sections={"test.a": bytes(range(64)), "test.b": bytes(64)}))


def with_entry(*changes: tuple[int, int, int]) -> bytes:
    """The file with numbers in its section table changed, (entry, column, difference), and the checksums of what they point to."""
    stored = b"".join(section[4] for section in sections)

    def change(rows: list[list[int]]) -> None:
        start = rows[0][OFFSET]
        for entry, column, difference in changes:
            rows[entry][column] = (rows[entry][column] + difference) % (1 << (64 if column == OFFSET else 32))
        for row in rows:
            row[CRC] = zlib.crc32(stored[max(0, row[OFFSET] - start) :][: row[STORED]])

    return forging.put_together(header, sections, table=change)


attack(
    refused={
        "two sections at one place": with_entry((3, OFFSET, -64)),
        "a section that overlaps the next one": with_entry((2, STORED, 8), (2, RAW, 8)),
        "a hole between sections": with_entry((3, OFFSET, 1)),
        "a section on top of the header": with_entry((1, OFFSET, -300)),
        "a section beyond the end": with_entry((3, STORED, 1 << 30), (3, RAW, 1 << 30)),
        "an offset that wraps around": with_entry((3, OFFSET, -(1 << 63))),
        "a size of 4 GiB": with_entry((3, STORED, -65), (3, RAW, -65)),
        "a last section that ends early": with_entry((3, STORED, -1), (3, RAW, -1)),
    }
)
