"""From what a command's body raises to its exit code and its one line on standard error."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gsdata.errors import BudgetError, GsdError
from gsdata_tools import ranks
from gsdata_tools.usage import UsageError, note

# Packages that the core install lacks, and the extra that brings each.
_EXTRAS = {
    "webdataset": "wds",
    "mlxtend": "demo",
    "cupy": "cuda13",
}
# Every command that needs torch needs the tools extra too, which brings it: one line, one install.
_IN_TOOLS = {"torch", "numba", "llvmlite", "PIL", "rich", "sklearn", "safetensors", "kornia", "pyarrow", "scipy"}
# Errors of the operating system that mean "what you named is not there or not yours": typed wrong rather than a bad file.
_TYPED_WRONG = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


def run(main_function: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call a command's body and turn what it raises into an exit code and at most one line on standard error.

    Args:
        main_function: takes the arguments without the program's name; its return value is the exit code (``None`` is 0).
        argv: the arguments; ``None`` takes those of the process.
    """
    complain = sys.unraisablehook
    try:
        return _run(main_function, list(sys.argv[1:] if argv is None else argv))
    finally:
        sys.unraisablehook = complain


def _run(main_function: Callable[[list[str]], int | None], arguments: list[str]) -> int:
    # Read when torch loads. Without it, its idle threads spin, and a training that shares its cores takes four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _stoppable(), ranks.only_first_prints():
            code = main_function(arguments) or 0
        sys.stdout.flush()
        ranks.leave(code)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        return _fail(130, _how_to_resume(arguments))
    except (UsageError, BudgetError) as error:
        return _fail(2, str(error))
    except GsdError as error:
        return _fail(1, str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(package, "tools" if package in _IN_TOOLS else "")
        if not extra:
            raise
        return _fail(2, f"this needs {package}, which is not installed: pip install 'gsdata[{extra}]'")
    except BrokenPipeError:  # the reader of our output has gone, as in `gsd-inspect x.gsd | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(2 if error.errno in _TYPED_WRONG else 1, f"{where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        what = (str(error).splitlines() or ["no details"])[0]
        # PyTorch raises a RuntimeError where NumPy raises a MemoryError, on a CPU and on a GPU.
        if isinstance(error, RuntimeError) and not re.search(
            "(can't|failed to) allocate|(out of|not enough) memory", what
        ):
            raise
        return _fail(1, f"out of memory ({what}); --limit or a smaller --size needs less")
    return code


def _fail(code: int, message: str) -> int:
    if ranks.speaks_for_all():
        note(f"{_program()}: {message}")
    ranks.end_at_once(code)
    return code


def _program() -> str:
    """How this command was started: by its name, or as a module."""
    started = Path(sys.argv[0] if sys.argv and sys.argv[0] else "gsdata")
    if started.parent.name != "gsdata_tools":
        return started.name
    launcher = f"torchrun --nproc-per-node {ranks.started()}" if ranks.started() > 1 else "python"
    return f"{launcher} -m gsdata_tools.{started.stem}"


def _how_to_resume(arguments: list[str]) -> str:
    """What to type after Ctrl-C: it depends on whether the run had saved anything."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("-o", "--output", type=Path)
    try:
        output = finder.parse_known_args(arguments)[0].output
    except (argparse.ArgumentError, SystemExit):
        output = None
    # Of a file X.gsd, and of a folder.
    kept = [output.with_suffix(".ckpt"), output.with_name(f"{output.name}.ckpt")] if output and output.name else []
    if not any(folder.is_dir() for folder in kept):
        return "stopped; nothing was written"
    again = [*(argument for argument in arguments if argument != "--resume"), "--resume"]
    return f"stopped; to continue: {_program()} {shlex.join(again)}"


@contextmanager
def _stoppable() -> Iterator[None]:
    """While inside, SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that a stopped run leaves the same; so does what either breaks.

    An interrupt comes between any two operations, and what is interrupted may raise something else on its way out. Only Numba and LLVM are
    let finish first, until there is a second one: of what they have half made, some is freed twice, and the process crashes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = waiting = False
    later = threading.Timer(0, lambda: None)

    def send_again(number: int) -> None:
        nonlocal waiting
        waiting = False
        os.kill(os.getpid(), number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal stopped, waiting, later
        if not waiting and _is_compiling(frame):
            waiting, later = True, threading.Timer(0.01, send_again, (number,))
            later.start()
            return
        stopped = True
        sys.unraisablehook = lambda _: None  # of objects that are half made now
        raise KeyboardInterrupt

    wanted = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored
        wanted.append(signal.SIGINT)
    previous = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    except BaseException as error:
        if stopped:
            raise KeyboardInterrupt from error
        raise
    finally:
        later.cancel()
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _is_compiling(frame: FrameType | None) -> bool:
    """Whether Numba or LLVM is at work, if only to load what was compiled before."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in ("numba", "llvmlite"):
            return True
        frame = frame.f_back
    return False
