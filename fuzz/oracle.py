"""What reading a hostile file must be: a ``GsdError``, or the same content in every reader; soon, and in little memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from gsdata.container import CODEC_NAMES
from gsdata.file import GsdFile, merge

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "spec" / "vectors"
SLOW = 1.0
"""Seconds of a processor that are a hang, in gsdata and in spec/js."""
SLOW_READER = 10.0
"""The same in spec/reader.py. It is plain Python, made to be read: a section's limits allow it 4 million symbols, each a microsecond
or two, before it can tell that they are wrong. It is asked about no larger good files (``MOST_COMPARED``)."""
STOP = 20.0
MEMORY = 64 << 20
"""Bytes beside the file itself (FORMAT.md, "Limits")."""
MOST_COMPARED = 4096
"""Images, Gaussians and weights of files that the reader in plain Python is asked about: it is slow."""

OTHERS = {
    "section # of chunk # at offset #: zstd cannot": "C2",
    "header at offset #: zstd cannot": "C2/C7",
    "header size must be": "G5/H7",
    "header gaussians#channels must be": "G4/H7",
    "not a .gsd file": "P1",
    "ends within the model": "A11",
    "header at offset #: a zstd window": "L6",
    "nothing more expected": "T7/T8",
    "header quantizers: uniform quantiser from": "Q4",
    "the file needs the feature": "H12",
    "header holds more than # values": "L2",
    "header: recipe augment": "R1",
    "header: recipe batch_size": "R2",
    "header: recipe epochs": "R3",
    "header: recipe lr": "R4",
    "header: recipe mean": "R5",
    "header: recipe model": "R6",
    "header: recipe momentum": "R7",
    "header: recipe std": "R8",
    "header: recipe steps": "R9",
    "header: recipe weight_decay": "R11",
}
"""Rules behind messages that no vector has."""

NEAR_LIMITS = 100_000
"""Bytes of a header that may hold nearly as much as a header can."""
MOST_WRITTEN = 256
"""Images and Gaussians of files that are written again: fitting a model takes longer than reading one."""

sys.path.insert(0, str(ROOT / "spec"))
import reader  # noqa: E402
from errors import FormatError as SpecError  # noqa: E402


class Hang(Exception):  # noqa: N818
    """Reading took longer than ``STOP`` seconds."""


@dataclass
class Reading:
    """What gsdata made of a file.

    Attributes:
        rule: that refused it (names of FORMAT.md), ``""`` where it was read.
        held: digest of what it holds, as ``verdicts.mjs`` has it; None where it was refused or is too large to compare.
        problem: ``crash``, ``hang`` or ``allocation``, or ``""``; and what was said.
        seconds: of a processor that it took; 0 where every allocation was traced, which is slow.
    """

    rule: str = ""
    held: str | None = None
    large: bool = False
    problem: str = ""
    said: str = ""
    seconds: float = 0.0


def digest(content_id: str, counts: Any, labels: Any, gaussians_sha256: str, sections: Any) -> str:
    """One text for all that a file holds."""
    held = json.dumps([content_id, counts, labels, gaussians_sha256, sections], separators=(",", ":"))
    return hashlib.sha256(held.encode()).hexdigest()


def held_by(file: GsdFile) -> str:
    """The digest of what gsdata reads."""
    gaussians = file.gaussians()
    rows = np.concatenate([gaussians.means, gaussians.cholesky, gaussians.colors], axis=1).astype("<f4")
    weights = file._labels.weights
    labels = [None if label < 0 else label for label in file.labels.tolist()] if weights is None else weights.tolist()
    sections = []
    for section in file.sections:
        optional = section.name in file._chunks.optional
        raw = (
            file.read_optional(section.name)
            if optional
            else file._chunks.raw(section.chunk, [section.name])[section.name]
        )
        sections.append([section.chunk, section.name, CODEC_NAMES[section.codec], zlib.crc32(raw)])
    sha256 = hashlib.sha256(rows.tobytes()).hexdigest()
    return digest(file.content_id, file.counts.tolist(), labels, sha256, sections)


def use(file: GsdFile, data: bytes) -> None:
    """What programs do with a good file: nothing of it may fail, and what is written again, of one file in four, is the same."""
    if file.byte_table().total != len(data):
        raise AssertionError("bytes that are not accounted for")
    repr(file), file.recipe, file.metadata, file.provenance, file.classes, file.sha256, file.soft_labels
    if file.images + file.gaussian_count > MOST_WRITTEN or zlib.crc32(data) % 4:
        return
    file.stream_rates()
    every = range(-file.images, 0)
    try:
        again = file.subset(every)
    except gsdata.LimitError:
        # It says where it was taken from, for which a header may have no room.
        if len(file._container.header_bytes) > NEAR_LIMITS:
            return
        raise
    again.verify()
    if not same(again, file) or merge([file, again]).images != 2 * file.images:
        raise AssertionError("written again, it is another one")


def same(one: GsdFile, other: GsdFile) -> bool:
    """Whether two files hold the same images, whose Gaussians a writer may sort."""
    return one.counts.tolist() == other.counts.tolist() and all(
        sorted(one.gaussians([i]).colors.tolist()) == sorted(other.gaussians([i]).colors.tolist())
        and sorted(one.gaussians([i]).means.tolist()) == sorted(other.gaussians([i]).means.tolist())
        and one.labels[i] == other.labels[i]
        for i in range(min(one.images, 8))
    )


def by_reader(data: bytes) -> tuple[float, str]:
    """Seconds of a processor, and what spec/reader.py says: ``read`` and a digest, ``refused`` and the error, or ``crash``."""
    start = time.process_time()
    with stopped():
        try:
            found = reader.describe(data)
            keys = ("content_id", "counts", "labels", "gaussians_sha256", "sections")
            said = f"read {digest(*(found[key] for key in keys))}"
        except SpecError as error:
            said = f"refused {type(error).__name__}"
        except Hang:
            said = f"hang: stopped after {STOP} s"
        except Exception as error:  # whatever it is, it must not be
            said = f"crash {type(error).__name__}: {error}"
    return time.process_time() - start, said


def by_javascript(files: Sequence[bytes], timeout: float = 300) -> list[tuple[float, str]]:
    """The same of spec/js, for many files in one process; in a further one after a file that ends it."""
    if not files:
        return []
    stream = b"".join(len(data).to_bytes(4, "little") + data for data in files)
    command = ["node", str(Path(__file__).with_name("verdicts.mjs"))]
    try:
        done = subprocess.run(command, input=stream, capture_output=True, timeout=timeout)
        output, end = done.stdout, f"0 crash node ended with {done.returncode}: {done.stderr[-300:]!r}"
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b"", f"{timeout} hang: stopped after {timeout} s"
    lines = output.decode(errors="replace").splitlines()[: len(files)]
    found = [(float(seconds), said) for seconds, _, said in (line.partition(" ") for line in lines)]
    if len(lines) == len(files):
        return found
    seconds, _, said = end.partition(" ")
    return [*found, (float(seconds), said), *by_javascript(files[len(lines) + 1 :], timeout)]


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """``Hang`` after ``STOP`` seconds of a processor."""
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, STOP)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


class Oracle:
    """Reads files and names the rules that refuse them."""

    def __init__(self) -> None:
        self.rules: set[str] = set()
        self._by_message: dict[str, str] = {}
        known: dict[str, set[str]] = defaultdict(set)
        for path in sorted((VECTORS / "invalid").glob("*.gsd")):
            rules = json.loads(path.with_suffix(".json").read_text())["rules"]
            try:
                gsdata.open(path.read_bytes()).verify()
            except gsdata.GsdError as error:
                known[skeleton(error)].update(rules)
            self.rules.update(rules)
        for message, names in known.items():
            self._by_message[message] = "/".join(sorted(names, key=lambda name: (name[0], int(name[1:]))))
        self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def read(self, data: bytes, trace: bool = False) -> Reading:
        """Open a file, verify it and take its content."""
        found = Reading()
        if trace:
            tracemalloc.start()
        start = time.process_time()
        try:
            with stopped():
                file = gsdata.open(data)
                file.verify()
                size = file.images * max(1, file.class_count if file.label_kind == "soft" else 1) + file.gaussian_count
                found.large = size > MOST_COMPARED
                found.held = None if found.large else held_by(file)
                if not found.large:
                    use(file, data)
        except gsdata.GsdError as error:
            found.said = str(error)
            found.rule = self.rule_of(error)
            if "\n" in found.said or len(found.said) > 1000:
                found.problem = "crash"
        except Hang:
            found.problem, found.said = "hang", f"stopped after {STOP} s"
        except BaseException as error:  # whatever it is, it must not be
            if isinstance(error, KeyboardInterrupt):
                raise
            found.problem, found.said = "crash", f"{type(error).__name__}: {error}"
        finally:
            seconds = time.process_time() - start
            found.seconds = 0.0 if trace else seconds
            peak = tracemalloc.get_traced_memory()[1] if trace else 0
            if trace:
                tracemalloc.stop()
        if not found.problem and seconds > (5 if trace else 1) * SLOW:
            found.problem, found.said = "hang", f"{seconds:.2f} s"
        if not found.problem and peak > MEMORY + len(data):
            found.problem, found.said = "allocation", f"{peak:,} bytes"
        if not trace and not found.problem and self._grew():
            return self.read(data, trace=True)
        return found

    def _grew(self) -> bool:
        """Whether this process needed 8 MiB more than ever: tracing every file would take too long."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak - self._peak < 8 << 10:
            return False
        self._peak = peak
        return True

    def rule_of(self, error: gsdata.GsdError) -> str:
        """The rules of FORMAT.md that messages like this one are about, or the message itself."""
        message = skeleton(error)
        known = next((rule for text, rule in OTHERS.items() if text in message), message)
        return self._by_message.get(message, known)


def _hang(number: int, frame: object) -> None:
    raise Hang


def skeleton(error: gsdata.GsdError) -> str:
    """A message without what is of one file only."""
    text = f"{type(error).__name__}: {str(error).removeprefix('<bytes>: ')}"
    # Which section it is matters where codes, counts or labels are wrong, not where bytes are.
    of_content = r"(?=.*(value \S+ at|add up|ascending|no weight))"
    text = re.sub(rf"(?<=section )'(counts|gaussians|labels?(\.\w+)?)'{of_content}", r"\1", text)
    text = re.sub(r"\((header|offset)[^()]*\)", "", text)
    text = re.sub(r"(recipe \w+|must (lie in|be|have)).*", r"\1", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\bb'.*", "#", text)
    text = re.sub(
        r"\b(0x[0-9a-f]+|[0-9a-f]{8})\b|(?<=quantizers\.)\w+|(?<=truncated: \d).*|(?<=it starts with).*", "#", text
    )
    return re.sub(r"-?\b[\d.]+(e[+-]?\d+)?\b|, found.*", "#", text)[:120]
