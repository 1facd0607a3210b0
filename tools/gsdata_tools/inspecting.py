"""``gsd-inspect``: what a ``.gsd`` file holds, where its bytes go, and whether they are sound.

The text, ``--json``, ``--verify`` and ``--html`` need the core install only; ``--preview`` loads numba and Pillow, never torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsdata.atomic import write_atomically
from gsdata_tools import cli
from gsdata_tools.printing import printable, show

if TYPE_CHECKING:
    from gsdata.file import GsdFile

SCHEMA = "gsd-inspect/1"
_LONGEST_VALUE, _MOST_LINES, _MOST_CLASSES = 160, 60, 40

EXAMPLES = (
    "gsd-inspect cifar10.gsd",
    "gsd-inspect cifar10.gsd --verify --preview cifar10.png",
    "gsd-inspect cifar10.gsd --html cifar10.html",
    "gsd-inspect cifar10.gsd --json | jq .bytes",
    "curl -s https://example.org/cifar10.gsd | gsd-inspect -",
)
NOTES = """what the words mean:
  payload    sections of Gaussians        labels    sections of labels
  index      the section table            overhead  preamble, header, sections unknown to this version
  IPC        images per class that weigh as much as the file: at 4 bytes a value (float32, what papers count)
             or at 1 byte (uint8, what pixels weigh)"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``gsd-inspect``; returns the exit code."""
    return cli.run(_main, argv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.build_parser("gsd-inspect", "Show what a .gsd file holds and where its bytes go.", EXAMPLES, NOTES)
    parser.add_argument("file", metavar="FILE", help="the .gsd; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the page")
    parser.add_argument("--verify", action="store_true", help="check every byte, code and label; exit 1 if one is bad")
    parser.add_argument("--preview", type=Path, metavar="OUT.png", help="draw a contact sheet, a line per class")
    parser.add_argument(
        "--size",
        type=cli.image_size,
        metavar="S|HxW",
        help="decode the preview at this size (default: the reference size, smaller above 192 pixels)",
    )
    parser.add_argument("--html", type=Path, metavar="OUT.html", help="write a page that shows all images in a browser")
    parser.add_argument("--force", action="store_true", help="let --preview and --html overwrite a file")
    return parser


def _main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    if options.preview is None and options.size is not None:
        raise cli.UsageError("--size is the size of the preview: add --preview OUT.png")
    for option, path, suffix in (("--preview", options.preview, ".png"), ("--html", options.html, ".html")):
        if path is not None:
            _check_output(option, path, suffix, options.force)
    if options.preview is not None:
        # Asked for before anything is printed: a missing package is one line and nothing else.
        import numba  # noqa: F401
        import PIL  # noqa: F401
    import gsdata

    source = sys.stdin.buffer.read() if options.file == "-" else options.file
    with gsdata.open(source) as file:
        checks = verify(file) if options.verify else []
        html = _html_page(file, options.file) if options.html is not None else b""
        if options.json:
            # Escapes keep names from a file away from the terminal, and mean the same to every JSON parser.
            text = json.dumps(describe(file), indent=2, allow_nan=False, default=_plain)
            notes = [f"checked: {check}" for check in checks]
        else:
            text, notes = "\n".join(page(file, checks)), []
        # Files are written before anything is printed: who reads that may end at the first line, and this with it.
        if options.preview is not None:
            from gsdata_tools.preview import preview_file

            sheet = preview_file(file, options.preview, size=options.size)
            some = f"; {sheet.left_out} further classes are not shown" if sheet.left_out else ""
            notes.append(f"{options.preview}: {len(sheet.indices)} of {file.images} images{some}")
        if options.html is not None:
            write_atomically(options.html, html)
            notes.append(f"{options.html}: {len(html):,} bytes; open it in a browser")
    try:
        show(text)
    finally:
        for note in notes:
            cli.note(note)
    return 0


def _html_page(file: GsdFile, source: str) -> bytes:
    from gsdata_tools import page as html

    return html.page_of(file, "standard input" if source == "-" else Path(source).name)


def _check_output(option: str, path: Path, suffix: str, force: bool) -> None:
    if path.suffix.lower() != suffix:
        raise cli.UsageError(f"{option} {path}: the name must end in {suffix}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise cli.UsageError(f"{option} {path}: {path.parent} is no folder that can be written to")
    if path.is_dir():
        raise cli.UsageError(f"{option} {path}: this is a folder; choose another name")
    if path.exists() and not force:
        raise cli.UsageError(f"{path} exists already; --force overwrites it")


def describe(file: GsdFile) -> dict[str, Any]:
    """What ``--json`` prints: the same keys for every file; null where a number means nothing (no Gaussians).

    ``metadata`` holds ``recipe``, ``provenance`` and ``user``. A file without classes counts as one class in ``budget``.

    Raises:
        GsdError: stored bytes are damaged (``content_id`` reads them all).
    """
    from gsdata.budget import ipc_of

    budget, counts, classes = file.byte_table(), file.counts, max(file.class_count, 1)
    total, gaussians = budget.total, file.gaussian_count
    return {
        "schema": SCHEMA,
        "format_version": ".".join(map(str, file.format_version)),
        "sha256": file.sha256,
        "content_id": file.content_id,
        "images": file.images,
        "classes": file.class_count,
        "class_names": list(file.classes),
        "channels": file.channels,
        "reference_size": list(file.size),
        "gaussians": {
            "total": gaussians,
            "min": int(counts.min()) if len(counts) else None,
            "mean": gaussians / len(counts) if len(counts) else None,
            "max": int(counts.max()) if len(counts) else None,
        },
        "bits_per_gaussian": 8 * total / gaussians if gaussians else None,
        "bytes": {
            "payload": budget.payload,
            "labels": budget.labels,
            "index": budget.index,
            "overhead": budget.overhead,
            "total": total,
        },
        "streams": _rates(file),
        "budget": {
            "bytes_per_class": total / classes,
            "bits_per_class": 8 * total / classes,
            "ipc_float32": ipc_of(total, classes, file.channels, file.size, "float32"),
            "ipc_uint8": ipc_of(total, classes, file.channels, file.size, "uint8"),
        },
        "metadata": {"recipe": file.recipe.to_dict(), "provenance": file.provenance, "user": file.metadata},
    }


def verify(file: GsdFile) -> list[str]:
    """Check everything that can be checked without the source data; returns a line for each thing that was.

    Raises:
        GsdError: the first thing that is wrong.
    """
    from gsdata.errors import FormatError

    file.verify()  # values are finite and scales positive because opening checked the quantisers' tables
    sections, budget = file.sections, file.byte_table()
    size = sections[-1].offset + sections[-1].stored_size if sections else budget.total
    if budget.total != size:
        raise FormatError(f"{file.path}: its parts add up to {budget.total} bytes, its sections end at {size}")
    used = len({int(label) for label in file.labels if label >= 0})
    empty = int((file.counts == 0).sum())
    found = [
        "preamble, header and section table: checksum, canonical form, every size and offset",
        f"{len(sections)} sections: stored checksum, zstd frame or rANS model and end, decoded size",
        f"{file.gaussian_count:,} Gaussians: every code has a value, every value is finite, every scale positive",
        f"labels ({file.label_kind}): one for each of {file.images:,} images, of {used} of {file.class_count} classes"
        if file.label_kind != "none"
        else "labels: none",
        f"bytes: payload, labels, index and overhead add up to {budget.total:,}",
    ]
    if file.label_kind != "none" and used < file.class_count:
        found.append(f"note: {file.class_count - used} classes have no image")
    if empty:
        found.append(f"note: {empty} images have no Gaussian and show the background only")
    return found


def page(file: GsdFile, checks: Sequence[str] = ()) -> list[str]:
    """The readable page, line by line. Text from the file is escaped where a terminal would act on it."""
    about = describe(file)
    height, width = file.size
    labels = {"none": "no labels", "hard": "hard labels", "soft": "soft labels"}[file.label_kind]
    holds = f"{_count(file.images, 'image')} of {height}x{width} pixels, {_count(file.class_count, 'class', 'classes')}"
    blocks = [
        (
            f"{printable(file.path)}: {holds}, {labels}",
            [
                ("format", f"gsd {about['format_version']}"),
                ("sha256", about["sha256"]),
                ("content id", about["content_id"]),
                ("channels", str(file.channels)),
                (
                    "rendering",
                    f"{file.header.kernel}, antialias {file.header.antialias}, background {_background(file)}",
                ),
                *_classes(file),
            ],
        ),
        ("Bytes", _bytes(about)),
        ("Payload and labels by section", _sections(file)),
        ("Streams, bits per code", _streams(about["streams"])),
        ("Density", _density(file, about)),
        ("Training recipe", _flat(about["metadata"]["recipe"])),
        ("Provenance", _flat(about["metadata"]["provenance"])),
        ("Metadata", _flat(about["metadata"]["user"])),
    ]
    lines: list[str] = []
    for title, rows in blocks:
        kept = rows[:_MOST_LINES]
        wide = max((len(name) for name, _ in kept), default=0)
        lines += ["", title] if lines else [title]
        lines += [f"  {name:<{wide}}  {value}".rstrip() for name, value in kept] or ["  (none)"]
        if len(rows) > len(kept):
            lines.append(f"  ... and {len(rows) - len(kept)} more; --json shows all")
    if checks:
        lines += ["", "Verified", *(f"  {check}" for check in checks)]
    return lines


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _background(file: GsdFile) -> str:
    return " ".join(f"{value:g}" for value in file.header.background)


def _classes(file: GsdFile) -> Iterator[tuple[str, str]]:
    if file.classes:
        names = ", ".join(printable(name) for name in file.classes[:_MOST_CLASSES])
        more = len(file.classes) - _MOST_CLASSES
        yield "classes", _shortened(names) + (f" and {more} more" if more > 0 else "")
    if file.label_kind != "none" and file.images:
        import numpy as np

        sizes = np.bincount(file.labels, minlength=file.class_count)
        low, high = int(sizes.min()), int(sizes.max())
        yield "images per class", f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _bytes(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = about["bytes"]
    wide = len(f"{sizes['total']:,}")
    return [(name, f"{size:>{wide},}  {100 * size / sizes['total']:6.2f} %") for name, size in sizes.items()]


def _sections(file: GsdFile) -> list[tuple[str, str]]:
    from gsdata.container import CODEC_NAMES

    stored: dict[str, int] = {}
    raw: dict[str, int] = {}
    codecs: dict[str, set[int]] = {}
    for section in file.sections:
        stored[section.name] = stored.get(section.name, 0) + section.stored_size
        raw[section.name] = raw.get(section.name, 0) + section.raw_size
        codecs.setdefault(section.name, set()).add(section.codec)
    rows = [["", "stored", "bits/Gaussian", "unpacked", "codec"]]
    for name, size in stored.items():
        bits = f"{8 * size / file.gaussian_count:.2f}" if file.gaussian_count else "-"
        kinds = "+".join(CODEC_NAMES[codec] for codec in sorted(codecs[name]))
        rows.append([printable(name), f"{size:,}", bits, f"{raw[name]:,}", kinds])
    return _aligned(rows)


def _rates(file: GsdFile) -> dict[str, Any]:
    """For each section of the format: stored bytes, those that no stream accounts for, and the rates of its streams."""
    sections: dict[str, Any] = {}
    for section in file.sections:
        sections.setdefault(section.name, {"stored_bytes": 0})["stored_bytes"] += section.stored_size
    for rate in file.stream_rates():
        row = {"name": rate.name, "codes": rate.codes, "entropy_bits": rate.entropy, "coded_bits": rate.coded}
        sections[rate.section].setdefault("streams", []).append(row)
    sections = {name: section for name, section in sections.items() if "streams" in section}
    for section in sections.values():
        known = all(row["coded_bits"] is not None for row in section["streams"])
        bits = sum(row["codes"] * row["coded_bits"] for row in section["streams"]) if known else 0
        section["other_bytes"] = section["stored_bytes"] - bits / 8 if known else None
    return sections


def _streams(rates: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows, sums = [["", "codes", "entropy", "coded", ""]], []
    for name, section in rates.items():
        for row in section["streams"]:
            coded = "-" if row["coded_bits"] is None else f"{row['coded_bits']:.3f}"
            rows.append([row["name"], f"{row['codes']:,}", f"{row['entropy_bits']:.3f}", coded, ""])
        entropies = sum(row["codes"] * row["entropy_bits"] for row in section["streams"]) / 8
        if len(section["streams"]) > 1 and section["other_bytes"] is not None:
            own, other = section["stored_bytes"] - section["other_bytes"], section["other_bytes"]
            said = f"{section['stored_bytes']:,} bytes: {own:,.1f} of its streams, {other:,.1f} of the coder"
            sums.append((name, f"{said}; entropies {entropies:,.1f}"))
    return _aligned(rows) + sums


def _aligned(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Rows of a table as names and lines; every column but the last one is aligned to the right."""
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[f"{cell:>{w}}" for cell, w in zip(row[1:-1], wide[1:-1], strict=True)] for row in rows]
    return [(row[0], "  ".join([*cell, row[-1]]).rstrip()) for row, cell in zip(rows, cells, strict=True)]


def _density(file: GsdFile, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    gaussians, budget, total = about["gaussians"], about["budget"], about["bytes"]["total"]
    height, width = file.size
    values = file.channels * height * width
    rows = [("Gaussians", f"{gaussians['total']:,}")]
    if file.images:
        each = f"{gaussians['min']:,} to {gaussians['max']:,}, {gaussians['mean']:.2f} on average"
        same = gaussians["min"] == gaussians["max"]
        rows.append(("Gaussians per image", f"{gaussians['min']:,}" if same else each))
    if gaussians["total"]:
        rows.append(("bits per Gaussian", f"{about['bits_per_gaussian']:.2f} (whole file)"))
    if file.images:
        bits = 8 * total / file.images
        rows.append(
            ("bits per image", f"{bits:,.1f} ({total / file.images:,.1f} bytes, {bits / values:.3f} per value)")
        )
    rows.append(("bits per class", f"{budget['bits_per_class']:,.1f} ({budget['bytes_per_class']:,.1f} bytes)"))
    product = f"{max(file.class_count, 1)} x {file.channels} x {height} x {width}"
    rows.append(("IPC, float32", f"{budget['ipc_float32']:.4f} (one is {product} x 4 bytes; what papers count)"))
    rows.append(("IPC, uint8", f"{budget['ipc_uint8']:.4f} (one is {product} bytes)"))
    return rows


def _flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names, one line each."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{printable(str(key))}"
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{name}.")
        else:
            rows.append((_shortened(name), _shortened(printable(_text(value)))))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and not any(isinstance(item, (list, Mapping)) for item in value):
        return ", ".join(_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):  # the header may hold them; JSON may not
        return value.hex()
    raise TypeError(f"{type(value).__name__} is no JSON value")


if __name__ == "__main__":
    sys.exit(main())
