"""Every example runs, with tiny settings, and does what it says."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gsdata
from gsdata.quantize import fit_quantizers, quantize
from gsdata.shards import ShardWriter

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LIGHTNING, DDP = (ROOT / "examples" / name for name in ("lightning_datamodule.py", "train_ddp.py"))
RESNET = ["train_resnet.py", "--steps", "3", "--batch-size", "8", "--width", "4"]
CONTINUAL = ["continual_learning.py", "--remember", "4", "--gaussians", "4", "--fit-steps", "5", "--steps", "2"]
FEDERATED = ["federated.py", "--images", "8", "--bytes-per-image", "150", "--fit-steps", "5", "--steps", "2"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of nothing in particular, of the size and the classes of the digits."""
    draws = np.random.default_rng(0)
    gaussians = gsdata.Gaussians(
        means=draws.uniform(-1, 1, (100, 2)).astype(np.float32),
        cholesky=draws.uniform(1, 4, (100, 3)).astype(np.float32),
        colors=draws.uniform(0, 1, (100, 1)).astype(np.float32),
        counts=np.full(20, 5),
        size=(28, 28),
    )
    path = tmp_path_factory.mktemp("examples") / "digits.gsd"
    gsdata.save(
        path,
        quantize(gaussians, fit_quantizers(gaussians)),
        labels=np.arange(20) % 10,
        classes=[str(digit) for digit in range(10)],
        recipe=gsdata.Recipe(mean=(0.13,), std=(0.31,)),
    )
    return path


@pytest.fixture(scope="module")
def shards(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in two shards."""
    folder = tmp_path_factory.mktemp("examples") / "shards"
    with gsdata.open(digits) as file, ShardWriter(folder, "train", shard_images=12) as writer:
        for start in (0, 6, 12):
            writer.add(file.subset(range(start, min(start + 6, 20))))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in this process, in an empty folder; returns what it prints."""

    def start(*words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(ROOT / "examples" / words[0]), *map(str, words[1:])])
        runpy.run_path(sys.argv[0], run_name="__main__")
        assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"
        return capsys.readouterr().out

    return start


def launched(folder: Path, *words: str | Path) -> str:
    """Run one in a process of its own, with as many threads as the machine can bear beside other tests."""
    result = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_a_resnet_is_trained_and_tested_on_real_images(digits, run):
    lines = run(*RESNET, digits, "--test", "mnist-5k").splitlines()
    assert re.fullmatch(r"step 3, epoch [01], loss \d+\.\d+", lines[-2])
    assert re.fullmatch(r"\d+\.\d\d % of 1000 real test images", lines[-1])


def test_a_sharded_set_is_trained_on(shards, run):
    lines = run(
        "train_webdataset.py", shards, "--steps", "4", "--batch-size", "6", "--size", "12", "--workers", "1"
    ).splitlines()
    assert lines[0] == "18 images of 10 classes, 3 groups in 2 shards"
    assert re.fullmatch(r"step 4, epoch 1, loss \d+\.\d+", lines[-2])
    assert re.fullmatch(r"\d+ images/s, reading, rendering and training", lines[-1])


def test_the_lightning_module_trains_and_tests(digits, tmp_path):
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    told = launched(tmp_path, LIGHTNING, digits, "--test", "mnist-5k", "--steps", "2")
    assert "test accuracy" in told


def test_two_processes_end_with_one_network(digits, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    told = launched(tmp_path, *torchrun, DDP, digits, "--steps", "3", "--batch-size", "4")
    # 10 images for each process: batches of 4, 4 and 2.
    assert re.search(r"^2 processes, 20 images in .* one network$", told, re.MULTILINE), told


def test_several_processes_need_torchrun(digits, run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(DDP.name, digits)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("start it with torchrun --nproc-per-node N examples/train_ddp.py FILE")


def test_the_memory_grows_until_the_budget_and_no_further(run):
    lines = run(*CONTINUAL, "--budget", "1600").splitlines()
    rows = [re.fullmatch(r"0 to (\d) +(\d+) +([\d,]+) +([\d,]+) +[\d.]+ % +[\d.]+ %", line) for line in lines[1:]]
    assert [int(row[1]) for row in rows] == [1, 3, 5, 7, 9]
    images, sizes, pixels = ([int(row[column].replace(",", "")) for row in rows] for column in (2, 3, 4))
    assert images[:2] == [8, 16]
    assert images[-1] == 10, "one image of each class is left"
    assert sizes[0] < sizes[1] <= max(sizes) <= 1600
    assert pixels == [784 * number for number in images]


def test_a_budget_that_holds_nothing_is_refused(run):
    with pytest.raises(SystemExit, match="a budget of 300 bytes holds no image of every class: give more"):
        run(*CONTINUAL, "--budget", "300")


def test_the_wire_carries_what_is_reported(run):
    lines = run(*FEDERATED, "--rounds", "2").splitlines()
    rows = [re.fullmatch(r" +(\d) +([\d,]+) +[\d.]+ % +([\d,]+) +[\d.]+ %", line) for line in lines[1:]]
    files, weights = ([int(row[column].replace(",", "")) for row in rows] for column in (2, 3))
    for number in (1, 2):
        # Five clients with 8 images of at most 150 bytes, which use 98 to 100 % of them; 29,066 weights of 4 bytes.
        assert 0.98 * 5 * 8 * 150 * number <= files[number - 1] <= 5 * 8 * 150 * number
        assert weights[number - 1] == 5 * 29_066 * 4 * number


def test_jax_trains_without_pytorch(run, digits):
    pytest.importorskip("jax")
    out = run("jax_training.py", digits, "--steps", "25", "--batch-size", "20")
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", out)]
    assert losses[-1] < losses[0]
    assert "20 images" in out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_at_its_top_what_it_shows_and_is_listed(example):
    told = ast.get_docstring(ast.parse(example.read_text())) or ""
    assert f"examples/{example.name}" in told, "how to start it"
    assert f"[{example.name}]({example.name})" in (ROOT / "examples" / "README.md").read_text()
    assert example.name in Path(__file__).read_text(), "no test starts it"
