"""Lazy names: what is public, what importing it costs, and what each way in must not load."""

from __future__ import annotations

import ast
import graphlib
import os
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import gsdata

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = sorted(set(gsdata.__all__) - {"__version__"})


def python(code: str, *flags: str) -> str:
    """What a fresh interpreter prints that imports this checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tools")])
    result = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def submodules(package: types.ModuleType) -> list[str]:
    return [found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]


def test_the_lists_of_public_names_agree():
    assert sorted(gsdata._HOMES) == PUBLIC
    assert set(PUBLIC) <= set(dir(gsdata))
    checked = ast.parse((ROOT / "gsdata" / "__init__.py").read_text())
    (block,) = [node for node in checked.body if isinstance(node, ast.If)]
    for_type_checkers = {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(for_type_checkers) == PUBLIC


def test_every_public_name_twice_after_every_submodule():
    lines = [f"import {name}" for name in submodules(gsdata)]
    for name in PUBLIC:
        home = f"gsdata.{gsdata._HOMES[name]}"
        lines.append(f"a = gsdata.{name}; b = gsdata.{name}; import {home} as home")
        lines.append(f"assert a is b is home.{name}, {name!r}")
        lines.append(f"assert not isinstance(a, type(gsdata)), {name!r}")
    print_last = "print(len(vars(gsdata)))"
    assert int(python("\n".join(["import gsdata", *lines, print_last]))) > len(PUBLIC)


def test_every_public_name_first_in_a_fresh_interpreter():
    # One interpreter, with gsdata's modules forgotten before each name: no name may need another to be used first.
    code = (
        "import sys, importlib\n"
        f"for name in {PUBLIC!r}:\n"
        "    for module in [m for m in sys.modules if m.partition('.')[0] == 'gsdata']: del sys.modules[module]\n"
        "    import gsdata\n"
        "    assert getattr(gsdata, name) is getattr(gsdata, name), name\n"
    )
    python(code)


def test_no_public_name_is_that_of_a_module():
    # Importing a submodule binds its name in the package: it would replace the public name, or be replaced by it.
    assert not {name.split(".")[1] for name in submodules(gsdata)} & set(PUBLIC)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'gsdata' has no attribute 'nothing'"):
        _ = gsdata.nothing


def test_import_is_cheap():
    # Seconds of the processor, not of the clock: other work on the machine must not fail this.
    report = "import sys, time; t = time.process_time(); import gsdata; print(time.process_time() - t, 'numpy' in sys.modules)"
    runs = [python(report).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.2
    assert {loaded for _, loaded in runs} == {"False"}


def test_help_of_inspect_is_fast():
    report = (
        "import sys, time; t = time.process_time()\n"
        "from gsdata_tools.inspecting import main\n"
        "assert main(['--help']) == 0; print(time.process_time() - t)"
    )
    assert min(float(python(report).split()[-1]) for _ in range(3)) < 0.3


def test_inspecting_loads_the_core_only():
    code = (
        "import sys; from gsdata_tools.inspecting import main; assert main(['--help']) == 0\n"
        "print('LOADED', *sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    loaded = set(python(code).rpartition("LOADED")[2].split())
    assert not loaded & {"torch", "numba", "cupy", "PIL", "rich", "sklearn", "kornia", "scipy", "pyarrow"}


def test_rendering_numpy_loads_no_torch():
    code = (
        "import sys, numpy as np, gsdata\n"
        "one = np.ones((1, 3), np.float32)\n"
        "g = gsdata.Gaussians(0 * one[:, :2], one, one, np.array([1]), (8, 8))\n"
        "assert gsdata.render(g).shape == (1, 3, 8, 8)\n"
        "print('torch' in sys.modules, 'numba' in sys.modules)"
    )
    assert python(code) == "False True\n"


def test_without_torch_the_data_set_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import gsdata\n"
        "try: gsdata.GaussianDataset\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert python(code) == "GaussianDataset needs PyTorch: pip install 'gsdata[torch]'\n"


def test_library_never_imports_the_tools():
    for file in (ROOT / "gsdata").rglob("*.py"):
        names = [
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        ]
        assert not [name for name in names if name.partition(".")[0] == "gsdata_tools"], file


def test_no_circle_of_imports():
    # Those inside functions and those for type checkers count too.
    modules = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for root, package in ((ROOT, "gsdata"), (ROOT / "tools", "gsdata_tools"))
        for file in (root / package).rglob("*.py")
    }
    imports = {}
    for name, file in modules.items():
        named = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= members if members <= modules.keys() else members | {node.module or ""}
        imports[name] = named & modules.keys()
    graphlib.TopologicalSorter(imports).prepare()  # a CycleError names the modules
