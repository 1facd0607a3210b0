from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import gsdata
from gsdata.budget import coded_bits, ipc_bytes, plan
from gsdata_tools import distill, evaluate, experts
from gsdata_tools.experts import main as experts_main
from gsdata_tools.presets import BITS, PRESETS, expand
from gsdata_tools.usage import UsageError

PUBLISHED = [name for name in PRESETS if name.startswith("gsdd-")]
# images of a class, Gaussians, bytes of a class: GSDD's tables 7 to 12 and its published code.
ROWS = {
    "gsdd-cifar10-ipc1": (30, 22, 11_880),
    "gsdd-cifar10-ipc10": (160, 42, 120_960),
    "gsdd-cifar10-ipc10-config": (80, 85, 122_400),
    "gsdd-cifar10-ipc10-script": (120, 56, 120_960),
    "gsdd-cifar10-ipc50": (250, 136, 612_000),
    "gsdd-cifar100-ipc1": (30, 22, 11_880),
    "gsdd-cifar100-ipc10": (80, 85, 122_400),
    "gsdd-cifar100-ipc50": (400, 85, 612_000),
    "gsdd-imagenet128-ipc1": (64, 170, 195_840),
    "gsdd-imagenet128-ipc10": (640, 170, 1_958_400),
    "gsdd-imagenet128-ipc1-dm": (200, 54, 194_400),
    "gsdd-imagenet128-ipc1-dm-config": (120, 91, 196_560),
    "gsdd-imagenet256-ipc1-dm": (120, 364, 786_240),
    "gsdd-imagenet128-ipc1-dc": (200, 54, 194_400),
    "gsdd-imagenet128-ipc1-dc-config": (64, 170, 195_840),
}


def parsed(name, *typed):
    more = ["--data", "x", "-o", "x.gsd", *(["--expert-dir", "e"] if PRESETS[name].method == "tm" else []), *typed]
    return distill._parser().parse_args(expand(["--preset", name, *more]))


def test_every_published_row_is_there():
    assert set(PUBLISHED) == set(ROWS)
    for name, (images, gaussians, weight) in ROWS.items():
        preset = PRESETS[name]
        assert (preset.images, preset.gaussians, images * gaussians * 18) == (images, gaussians, weight)
        assert 0.96 < weight / (preset.ipc * preset.side**2 * 12) <= 1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_command_that_can_be_planned(name):
    preset, arguments = PRESETS[name], parsed(name)
    assert arguments.method == preset.method
    assert not hasattr(arguments, "preset")
    size = (preset.side, preset.side)
    total = arguments.bytes or ipc_bytes(arguments.ipc, preset.classes, 3, size)
    made = plan(
        total,
        preset.classes,
        images_per_class=arguments.images_per_class,
        gaussians_per_image=arguments.gaussians,
        size=size,
        bits=BITS if arguments.bits else None,
        max_images_per_class=5000,
    )
    if name in PUBLISHED:
        images, gaussians, weight = ROWS[name]
        assert (made.images_per_class, made.gaussians_per_image) == (images, gaussians)
        assert made.gaussians == pytest.approx(images * gaussians * preset.classes, rel=1e-3)
        assert total < 0.4 * weight * preset.classes
        assert total == pytest.approx(made.gaussians * coded_bits(BITS, size, gaussians) / 8, abs=1100)
    else:
        assert total == preset.ipc * preset.classes * 3 * preset.side**2 * 4


def test_protocols_are_the_published_ones():
    one = parsed("gsdd-cifar10-ipc10")
    assert (one.iterations, one.syn_steps, one.batch_syn, one.max_start_epoch) == (15000, 60, 380, 30)
    assert (one.expert_epochs, one.lr_init, one.lr_lr, one.model) == (2, 0.01, 1e-5, "ConvNet-D3")
    assert (one.init, one.choose, one.boundary) == ("real", "random", 0.1)
    two = parsed("gsdd-imagenet128-ipc1")
    assert (two.syn_steps, two.batch_syn, two.max_start_epoch, two.lr_lr) == (20, 150, 40, 1e-6)
    three = parsed("gsdd-imagenet128-ipc1-dm")
    assert (three.iterations, three.batch_real, three.batch_syn, three.networks) == (20000, 1024, 0, "random")
    four = parsed("gsdd-imagenet128-ipc1-dc")
    assert (four.iterations, four.batch_real, four.outer_loop, four.classes_per_step) == (5000, 720, 1, 0)
    assert parsed("gsdd-imagenet256-ipc1-dm").size == 256


def test_what_is_typed_overrides(capsys):
    arguments = parsed("gsdd-cifar10-ipc1", "--ipc", "2", "--iterations", "7", "--bits=7,5,6,6")
    assert (arguments.bytes, arguments.ipc, arguments.iterations, arguments.bits) == (None, 2, 7, (7, 5, 6, 6))
    assert arguments.images_per_class == 30
    arguments = parsed("gsdata-cifar10-ipc1", "--bytes=5000", "--quiet")
    assert (arguments.bytes, arguments.ipc) == (5000, None)
    said = capsys.readouterr().err
    assert said.count("--preset") == 1
    assert "cost: 15,000 iterations of 60 x 300 synthetic images" in said


def test_the_name_goes_before_or_after_the_verb():
    after = expand(["tm", "--seed", "1", "--preset=gsdd-cifar10-ipc1"])
    assert after == expand(["--preset", "gsdd-cifar10-ipc1", "--seed", "1"])
    assert after[0] == "tm"
    assert after[-2:] == ["--seed", "1"]
    assert expand(["dm", "--ipc", "1"]) == ["dm", "--ipc", "1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--preset", "gsdd-cifar10-ipc2"], "nearest: gsdd-cifar10-ipc1"),
        (["--preset", "?"], "'?' is unknown; gsd-distill --help"),
        (["--preset"], "'' is unknown"),
        (["dc", "--preset", "gsdd-cifar10-ipc1"], "one of gsd-distill tm, found dc"),
        (["--preset", "gsdd-cifar10-ipc1", "--preset=gsdd-cifar10-ipc50"], "2 times"),
        (["--preset", "gsdd-imagenet1k-ipc1"], "SRe2L"),
    ],
)
def test_what_cannot_be_expanded(words, says, capsys):
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        expand(words)
    assert distill.main([*words, "-o", "x.gsd"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_lists_all(capsys):
    for words in (["--help"], ["--preset", "gsdd-cifar10-ipc1", "--help"]):
        assert distill.main(words) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in PRESETS)
    assert distill.main(["tm", "--help"]) == 0
    assert "--preset NAME" in capsys.readouterr().out


def test_a_run_records_what_the_preset_asked_for_and_experts_must_be_long_enough(tmp_path, capsys):
    y = np.arange(30) % 3
    x = np.random.default_rng(0).integers(0, 200, (30, 12, 12, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    common = ["--data", str(tmp_path / "data.npz"), "--model", "ConvNet-D1", "--quiet"]
    options = ["--experts", "1", "--epochs", "3", "--batch-size", "10", "-o", str(tmp_path / "e")]
    assert experts_main([*options, *common]) == 0
    run = ["--preset", "gsdd-cifar10-ipc1", "--expert-dir", str(tmp_path / "e"), *common, "--images-per-class", "2"]
    run += ["--bytes", "1900", "--iterations", "1", "--syn-steps", "2", "--fit-steps", "10"]
    capsys.readouterr()
    assert distill.main([*run, "-o", str(tmp_path / "x.gsd")]) == 2
    assert "the experts have 3 epochs, --max-start-epoch 30 and --expert-epochs 2 need 31" in capsys.readouterr().err
    assert distill.main([*run, "--max-start-epoch", "2", "-o", str(tmp_path / "x.gsd")]) == 0
    recorded = json.loads((tmp_path / "x.json").read_text())["options"]
    assert (recorded["gaussians"], recorded["images_per_class"], recorded["bits"]) == (22, 2, list(BITS))
    assert (recorded["lr_init"], recorded["batch_syn"], recorded["choose"]) == (0.01, 300, "random")
    assert "preset" not in recorded
    with gsdata.open(tmp_path / "x.gsd") as file:
        assert "--lr-init 0.01" in file.provenance["command"]


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("script", sorted(RECIPES.glob("*.sh")), ids=lambda script: script.name)
def test_recipes_are_commands_that_exist_and_their_readme_lists_them(script):
    parsers = {"gsd-distill": distill._parser(), "gsd-experts": experts._parser(), "gsd-eval": evaluate.build_parser()}
    lines = [shlex.split(line) for line in script.read_text().splitlines() if line.startswith("gsd-")]
    assert [words[0] for words in lines][-2:] == ["gsd-distill", "gsd-eval"]
    for name, *words in lines:
        parsers[name].parse_args(expand(words))
    readme = (RECIPES / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if f"({script.name})" in line]
    assert ("not measured" in row) == ("Not measured" in script.read_text())
    preset = PRESETS[lines[-2][lines[-2].index("--preset") + 1]]
    assert f"| {ipc_bytes(preset.ipc, preset.classes, 3, (preset.side, preset.side)):,} |" in row
    assert ("not measured" in row) == (preset.measured == "not measured")
