"""How a long command shows that it lives, and how it knows that its time is up."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from gsdata_tools.usage import note

SECONDS_BETWEEN_LINES = 10.0


class Deadline:
    """The moment at which ``--time-limit`` ends a run; ``None`` seconds never end it. The clock starts here."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def expired(self) -> bool:
        """Whether the time is up."""
        return self._end is not None and time.monotonic() >= self._end

    def remaining(self) -> float:
        """Seconds left, at least 0; infinity without a limit."""
        return float("inf") if self._end is None else max(0.0, self._end - time.monotonic())


class Progress:
    """A bar on a terminal (where rich is installed), else one plain line at most every ten seconds, on standard error.

    Use it as a context manager, or call ``close``: a closing line says what was reached. ``quiet`` shows nothing.
    """

    def __init__(self, total: int | None, label: str, quiet: bool = False) -> None:
        self.total = total
        self.label = label
        self.quiet = quiet
        self._start = self._last_line = time.monotonic()
        self._done = 0
        self._first: tuple[int, float] | None = (
            None  # a resumed run starts in the middle: its speed is counted from there
        )
        self._numbers: dict[str, object] = {}
        self._bar: Any = None
        self._task: Any = None
        self._closed = False
        if not quiet and sys.stderr.isatty():
            self._open_bar()

    def update(self, done: int, **numbers: object) -> None:
        """Say that ``done`` of ``total`` is reached; ``numbers`` are shown by name, such as ``psnr=29.1``."""
        if self._first is None:
            self._first = (done, time.monotonic())
        self._done = done
        self._numbers.update(numbers)
        if self.quiet or self._closed:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=self._text_of_numbers())
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            note(self._line())

    def close(self) -> None:
        """Take the bar away and write the closing line; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.stop()
        if not self.quiet:
            note(self._line())

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_bar(self) -> None:
        try:
            from rich import progress as rich_progress
            from rich.console import Console
        except ImportError:
            return
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[numbers]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self.label, total=self.total, numbers="")
        self._bar.start()

    def _text_of_numbers(self) -> str:
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._numbers.items()
        )

    def _line(self) -> str:
        reached = f"{self._done:,}" if self.total is None else f"{self._done:,}/{self.total:,}"
        now = time.monotonic()
        parts = [f"{self.label} {reached}", self._text_of_numbers(), f"{clock(now - self._start)} elapsed"]
        first_done, first_time = self._first or (self._done, now)
        if not self._closed and self.total is not None and first_done < self._done < self.total:
            left = (now - first_time) * (self.total - self._done) / (self._done - first_done)
            parts.append(f"about {clock(left)} left")
        return ", ".join(part for part in parts if part)


def clock(seconds: float) -> str:
    """``75`` to ``"1:15"``, ``7260`` to ``"2:01:00"``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
