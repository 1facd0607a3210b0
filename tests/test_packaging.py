"""What is installed and what is loaded: the core alone must open, inspect and verify files, and say which extra anything else needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

import gsdata
from gsdata.quantize import fit_quantizers, quantize

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What the extras bring, under the names that they are imported by.
EXTRA_MODULES = ["torch", "numba", "llvmlite", "cupy", "PIL", "rich", "sklearn", "scipy", "safetensors", "kornia"]
EXTRA_MODULES += ["pyarrow", "mlxtend", "webdataset", "pandas", "matplotlib", "hypothesis"]
HEAVY = ("torch", "numba", "cupy")
COMMANDS = {name: target.partition(":")[0] for name, target in PROJECT["scripts"].items()}

# A finder before all others, so that an installed package looks as if it were not.
_WITHOUT_EXTRAS = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA_MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that imports this checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def command(name: str) -> str:
    """Code that runs a command with the arguments of the process, as its entry point does."""
    return f"import sys; sys.argv[0] = {name!r}; from {COMMANDS[name]} import main; sys.exit(main())"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    gaussians = gsdata.Gaussians(
        means=draws.uniform(-1, 1, (24, 2)).astype(np.float32),
        cholesky=draws.uniform(0.5, 2, (24, 3)).astype(np.float32),
        colors=draws.uniform(-0.5, 1, (24, 3)).astype(np.float32),
        counts=np.full(4, 6),
        size=(16, 16),
    )
    path = tmp_path / "small.gsd"
    gsdata.save(path, quantize(gaussians, fit_quantizers(gaussians)), labels=[0, 1, 1, 0], classes=("cat", "dog"))
    return path


def test_the_finder_hides_what_is_installed():
    for module in ("torch", "PIL.Image"):
        result = python(_WITHOUT_EXTRAS + f"import {module}")
        assert result.returncode == 1
        assert "ModuleNotFoundError: No module named" in result.stderr


def test_the_core_reads_and_writes(file, tmp_path):
    code = _WITHOUT_EXTRAS + (
        "import gsdata\n"
        "f = gsdata.open(sys.argv[1]); f.verify()\n"
        "f.subset([2, 0]).save(sys.argv[2]); print(gsdata.open(sys.argv[2]).labels.tolist(), f.gaussians().means.shape)"
    )
    result = python(code, file, tmp_path / "two.gsd")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "[1, 0] (24, 2)\n"


def test_the_core_inspects(file):
    inspect = _WITHOUT_EXTRAS + command("gsd-inspect")
    page = python(inspect, file)
    assert (page.returncode, page.stderr) == (0, "")
    assert str(file.stat().st_size) in page.stdout.replace(",", "")
    as_json = python(inspect, file, "--json")
    assert as_json.returncode == 0, as_json.stderr
    assert json.loads(as_json.stdout)["bytes"]["total"] == file.stat().st_size
    assert python(inspect, file, "--verify").returncode == 0
    assert python(inspect, file, "--html", file.with_suffix(".html")).returncode == 0
    assert file.with_suffix(".html").stat().st_size > file.stat().st_size
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    verified = python(inspect, file, "--verify")
    assert verified.returncode == 1
    assert len(verified.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("gsd-encode", "--data", "images", "--gaussians", "4", "-o", "out.gsd"),
        ("gsd-distill", "dm", "--data", "images", "--ipc", "1", "-o", "out.gsd"),
        ("gsd-eval", "small.gsd", "--data", "images"),
        ("gsd-inspect", "small.gsd", "--preview", "out.png"),
        ("gsd-export", "small.gsd", "--to", "png", "-o", "out"),
        ("gsd-export", "small.gsd", "--to", "parquet", "-o", "out"),
        ("gsd-export", "small.gsd", "--to", "pt", "-o", "out"),
    ],
    ids=lambda arguments: " ".join(arguments[:4:3] if arguments[0] == "gsd-export" else arguments[:1]),
)
def test_without_its_extra_a_command_says_what_to_install(arguments, file, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(folder / "0.png")
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "test")
    result = python(_WITHOUT_EXTRAS + command(arguments[0]), *arguments[1:], cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    extra = line.partition("pip install 'gsdata[")[2].removesuffix("]'")
    assert extra in PROJECT["optional-dependencies"], line
    assert not list(tmp_path.glob("out*"))


def loaded_after(code: str, *arguments: str) -> set[str]:
    """The heavy packages that code loads."""
    report = f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    result = python(f"import sys, atexit\natexit.register(lambda: {report})\n{code}", *arguments)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.rpartition("LOADED")[2].split())


def test_importing_loads_nothing_heavy():
    assert loaded_after("import gsdata, gsdata.file, gsdata.budget, gsdata.recipe, gsdata.kernels") == set()


def test_opening_and_inspecting_loads_nothing_heavy(file):
    assert loaded_after(command("gsd-inspect"), str(file)) == set()
    assert loaded_after(command("gsd-inspect"), str(file), "--verify", "--json") == set()
    assert loaded_after(command("gsd-inspect"), str(file), "--html", str(file.with_suffix(".html"))) == set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_loads_nothing_heavy_and_ends_well(name):
    assert loaded_after(command(name), "--help") == set()


def test_versions_agree():
    assert PROJECT["version"] == gsdata.__version__
    assert f"## {gsdata.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_required_package_is_pinned():
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = [*PROJECT["dependencies"]]
    for extra in ("torch", "wds", "tools", "demo", "dev"):
        wanted += PROJECT["optional-dependencies"][extra]
    names = {requirement.partition(">=")[0].lower() for requirement in wanted if not requirement.startswith("gsdata[")}
    assert names - pinned == set()


def test_every_package_and_what_is_no_module_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / settings["package-dir"].get(name, name.replace(".", "/")) for name in settings["packages"]}
    found = [path.parent for top in ("gsdata", "tools/gsdata_tools") for path in (ROOT / top).rglob("__init__.py")]
    assert sorted(folders.values()) == sorted([*found, ROOT / "spec" / "js"])
    for name in ("gsdata", "gsdata_tools", "gsdata_tools.web.reader"):
        others = [path.relative_to(folders[name]) for path in folders[name].rglob("*") if path.is_file()]
        others = [path for path in others if path.suffix not in (".py", ".pyc", ".nbc", ".nbi")]
        assert others
        assert [path for path in others if not any(path.match(p) for p in settings["package-data"][name])] == []


@pytest.mark.slow
def test_a_fresh_environment_with_the_core_alone(file, tmp_path):
    source = tmp_path / "source"
    for name in ("gsdata", "tools", "spec/js"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    venv.create(tmp_path / "env", with_pip=True)
    bin_folder = tmp_path / "env" / "bin"
    installed = subprocess.run(
        [bin_folder / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", source],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip(f"no package index can be reached: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    listed = subprocess.run([bin_folder / "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert names - {"pip", "setuptools", "wheel"} == {"gsdata", "numpy", "zstandard", "msgpack"}

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run(bin_folder / "gsd-inspect", file, "--verify").returncode == 0
    assert run(bin_folder / "gsd-inspect", file, "--html", "of-the-installed.html").returncode == 0
    page = python(command("gsd-inspect"), file, "--html", tmp_path / "of-the-checkout.html")
    assert page.returncode == 0, page.stderr
    assert len({path.read_bytes() for path in tmp_path.glob("of-the-*.html")}) == 1
    for name in COMMANDS:
        assert run(bin_folder / name, "--help").returncode == 0
    missing = run(bin_folder / "gsd-encode", "--data", "mnist-5k", "--gaussians", "4", "-o", "out.gsd")
    assert missing.returncode == 2
    assert "pip install 'gsdata[" in missing.stderr
    where = "import gsdata, gsdata_tools, pathlib as p; print([(p.Path(m.__file__).parent / 'py.typed').exists() for m in (gsdata, gsdata_tools)])"
    assert run(bin_folder / "python", "-c", where).stdout == "[True, True]\n"
