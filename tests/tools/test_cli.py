from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from gsdata.errors import BudgetError, ChecksumError, GsdError
from gsdata_tools import cli

ROOTS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in (".", "tools"))


def python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": ROOTS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def parser():
    built = cli.build_parser("gsd-try", "Try 100% of it.", ["gsd-try --data cifar10 -o x.gsd"])
    cli.common_data_options(built)
    cli.common_run_options(built)
    return built


def test_help_is_documentation(capsys):
    assert cli.run(lambda argv: parser().parse_args(argv) and 0, ["--help"]) == 0
    text = capsys.readouterr().out
    assert "Try 100% of it." in text
    for part in (
        "--data SPEC",
        "mnist-5k",
        "90s, 10m or 2h",
        "(default: auto)",
        "  gsd-try --data cifar10 -o x.gsd\n",
        "  130  stopped",
    ):
        assert part in text
    assert "default: None" not in text
    assert "default: False" not in text


def test_version(capsys):
    import gsdata

    assert cli.run(lambda argv: parser().parse_args(argv) and 0, ["--version"]) == 0
    assert capsys.readouterr().out == f"gsd-try {gsdata.__version__}\n"


def test_values_of_the_common_options():
    args = parser().parse_args(
        [
            "--data",
            "d",
            "--split",
            "test",
            "--limit",
            "10",
            "--size",
            "96x128",
            "-o",
            "x.gsd",
            "--time-limit",
            "10m",
            "--seed",
            "3",
        ]
    )
    assert (args.data, args.split, args.limit, args.size) == ("d", "test", 10, (96, 128))
    assert (args.output, args.time_limit, args.seed, args.device) == (Path("x.gsd"), 600.0, 3, "auto")
    assert not any((args.resume, args.force, args.quiet, args.json))


@pytest.mark.parametrize(
    "wrong",
    [
        ["--time-limit", "90"],
        ["--limit", "0"],
        ["--limit", "x"],
        ["--size", "0"],
        ["--seed", "-1"],
        ["--device", "tpu"],
        ["--lim", "3"],
    ],
)
def test_wrong_values_are_exit_2(wrong, capsys):
    assert cli.run(lambda argv: parser().parse_args(argv) and 0, ["--data", "d", "-o", "x.gsd", *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert wrong[0] in captured.err


def test_verbs(capsys):
    built = cli.build_parser("gsd-try", "Try.")
    verbs = built.add_subparsers(dest="verb", required=True)
    cli.common_run_options(cli.add_command(verbs, "dm", "Match means.", ["gsd-try dm"]))
    assert built.parse_args(["dm", "-o", "x.gsd"]).verb == "dm"
    assert cli.run(lambda argv: built.parse_args(argv) and 0, ["dm", "--help"]) == 0
    assert "Match means." in capsys.readouterr().out


def raiser(error):
    def body(argv):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (cli.UsageError("no\nsuch thing"), 2, "no such thing"),
        (BudgetError("too small"), 2, "too small"),
        (ChecksumError("x.gsd: damaged"), 1, "x.gsd: damaged"),
        (FileNotFoundError(2, "No such file or directory", "x.gsd"), 2, "x.gsd: No such file or directory"),
        (OSError(28, "No space left on device", "x.gsd"), 1, "x.gsd: No space left on device"),
        (MemoryError("Unable to allocate 9 GiB"), 1, "out of memory"),
        (ModuleNotFoundError("No module", name="torch.nn"), 2, "pip install 'gsdata[tools]'"),
        (ModuleNotFoundError("No module", name="numba"), 2, "pip install 'gsdata[tools]'"),
        (ModuleNotFoundError("No module", name="PIL"), 2, "pip install 'gsdata[tools]'"),
        (ModuleNotFoundError("No module", name="sklearn.cluster"), 2, "pip install 'gsdata[tools]'"),
        (ModuleNotFoundError("No module", name="mlxtend"), 2, "pip install 'gsdata[demo]'"),
        (ModuleNotFoundError("No module", name="webdataset"), 2, "pip install 'gsdata[wds]'"),
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, text, capsys):
    assert cli.run(raiser(error), []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_faults_of_our_own_are_not_hidden():
    with pytest.raises(ModuleNotFoundError):
        cli.run(raiser(ModuleNotFoundError("No module", name="gsdata_tools.nowhere")), [])
    with pytest.raises(ZeroDivisionError):
        cli.run(raiser(ZeroDivisionError()), [])


def test_return_values_are_exit_codes():
    assert cli.run(lambda argv: None, []) == 0
    assert cli.run(lambda argv: 1, []) == 1


@pytest.mark.parametrize("flag", ["-o", "--output"])
def test_an_interrupted_run_says_how_to_resume(flag, tmp_path, capsys):
    (tmp_path / "x.ckpt").mkdir()
    arguments = ["dm", "--data", "a b", flag, str(tmp_path / "x.gsd"), "--resume"]
    assert cli.run(raiser(KeyboardInterrupt()), arguments) == 130
    line = capsys.readouterr().err
    assert line.endswith(f"dm --data 'a b' {flag} {tmp_path / 'x.gsd'} --resume\n")
    assert line.count("--resume") == 1


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_command_with_130(name):
    done = python(
        """
        import os, signal, sys, time
        from gsdata_tools import cli
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
        def body(argv):
            os.kill(os.getpid(), int(argv[0]))
            time.sleep(20)
        sys.exit(cli.run(body))
        """,
        str(int(name)),
    )
    assert done.returncode == 130
    assert done.stderr == "-c: stopped; nothing was written\n"


@pytest.mark.parametrize("error", [ValueError, SystemExit, GsdError])
def test_what_an_interrupt_breaks_says_nothing(error, capsys):
    """A zip that is being written, say, does not close, and objects that are half made cannot be destroyed."""

    class Half:
        def __del__(self):
            raise AttributeError("not made yet")

    def body(argv):
        half = Half()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        finally:
            del half
            raise error("cannot close")

    hook = sys.unraisablehook
    assert cli.run(body, []) == 130
    assert capsys.readouterr().err.strip().endswith(": stopped; nothing was written")
    assert sys.unraisablehook is hook
    with pytest.raises(ZeroDivisionError):  # without an interrupt everything is said
        cli.run(lambda argv: 1 // 0, [])


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupt_waits_for_a_compiler_but_a_second_one_does_not(signals, capsys):
    """What Numba and LLVM have half made when they are interrupted is freed twice."""
    done = []

    def body(argv):
        code = "for _ in range(signals): os.kill(os.getpid(), 15)\nfor _ in range(20): time.sleep(0.01)\ndone.append(1)"
        exec(code, {"__name__": "llvmlite.binding.ffi", "os": os, "time": time, "signals": signals, "done": done})
        time.sleep(20)

    assert cli.run(body, []) == 130
    assert done == [1][: 2 - signals]
    assert capsys.readouterr().err.endswith(": stopped; nothing was written\n")


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert cli.run(lambda argv: os.kill(os.getpid(), signal.SIGINT), []) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_handlers_are_put_back(name):
    before = signal.getsignal(name)
    cli.run(lambda argv: None, [])
    assert signal.getsignal(name) is before


def test_a_folder_with_a_dot_in_its_name_is_resumed_too(tmp_path, capsys):
    (tmp_path / "e.v1.ckpt").mkdir()
    assert cli.run(raiser(KeyboardInterrupt()), ["-o", str(tmp_path / "e.v1")]) == 130
    assert "to continue" in capsys.readouterr().err
    for output in (".", "/", str(tmp_path / "e.v2")):
        assert cli.run(raiser(KeyboardInterrupt()), ["-o", output]) == 130
        assert "nothing was written" in capsys.readouterr().err


def test_a_closed_pipe_makes_no_noise():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from gsdata_tools import cli; sys.exit(cli.run(lambda a: cli.write_json({})))",
        ],
        env={**os.environ, "PYTHONPATH": ROOTS},
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_needs_the_core_install_only():
    done = python(
        """
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"torch", "numba", "cupy", "rich", "PIL", "sklearn", "pyarrow", "mlxtend", "safetensors"}:
                    raise AssertionError(f"imports {name}")
        sys.meta_path.insert(0, Block())
        from gsdata_tools import cli, sources
        def body(argv):
            p = cli.build_parser("gsd-try", "Try.")
            cli.common_data_options(p); cli.common_run_options(p); p.parse_args(argv)
        code = cli.run(body, ["--help"])
        with cli.Progress(3, "x") as bar: bar.update(3)
        sys.exit(code)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "usage: gsd-try" in done.stdout


def test_outputs(tmp_path):
    path = tmp_path / "x.gsd"
    output = cli.check_output(path)
    assert (output.gsd, output.png, output.json, output.ckpt) == tuple(
        path.with_suffix(s) for s in (".gsd", ".png", ".json", ".ckpt")
    )
    assert not output.resuming
    for existing in (".gsd", ".png", ".json"):
        path.with_suffix(existing).touch()
        with pytest.raises(cli.UsageError, match=rf"x\{existing} exists already; --force overwrites it"):
            cli.check_output(path)
        cli.check_output(path, force=True)
        with pytest.raises(cli.UsageError, match=r"no .*x.ckpt to resume from"):
            cli.check_output(path, resume=True)
        path.with_suffix(existing).unlink()
    (tmp_path / "x.ckpt").mkdir()
    with pytest.raises(cli.UsageError, match=r"x.ckpt is left over .*--resume.*--force"):
        cli.check_output(path)
    assert cli.check_output(path, resume=True).resuming
    assert not cli.check_output(path, force=True).resuming
    path.touch()  # killed between writing the file and removing the checkpoint
    assert cli.check_output(path, resume=True).resuming


@pytest.mark.parametrize("name", ["x", "x.png", "x.gsd.gz", ".gsd", "none/x.gsd", "x.gsd/"])
def test_outputs_that_cannot_be(name, tmp_path):
    (tmp_path / "x.gsd").mkdir()
    with pytest.raises(cli.UsageError, match=r"must end in \.gsd|no folder|is a folder"):
        cli.check_output(tmp_path / name)


def test_json_is_one_object_on_standard_output(capsys):
    cli.write_json({"schema": "x", "a": np.float32(0.5), "b": np.arange(3), "c": Path("x"), "d": "é"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"schema": "x", "a": 0.5, "b": [0, 1, 2], "c": "x", "d": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        cli.write_json({"a": float("nan")})


def test_devices(monkeypatch):
    assert cli.resolve_device("cpu") == "cpu"
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.resolve_device("auto") == "cpu"
    with pytest.raises(cli.UsageError, match="--device cpu"):
        cli.resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cli.resolve_device("auto") == cli.resolve_device("cuda") == "cuda"


def test_versions():
    versions = cli.record_versions()
    assert versions["numpy"] == np.__version__
    assert set(versions) >= {"gsdata", "numpy"}
    assert ("torch" in versions) == ("torch" in sys.modules)
