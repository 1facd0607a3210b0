from __future__ import annotations

import json
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools import distillation, tm
from gsdata_tools.distill import main as distill_main
from gsdata_tools.evaluate import main as evaluate_main
from gsdata_tools.expert_files import expert_path, experts_digest, read_experts, write_expert
from gsdata_tools.experts import main as experts_main
from gsdata_tools.tm import student_batches
from gsdata_tools.whitening import Whitening

NETWORK = ["--model", "ConvNet-D1", "--quiet"]


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make_data(path, classes=3, seed=0):
    draws = np.random.default_rng(seed)
    y = np.arange(36) % classes
    x = (draws.integers(0, 100, (36, 12, 12, 3)) + 50 * y[:, None, None, None]).astype(np.uint8)
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Real images and two experts of four epochs; not to be changed."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("tm")
    data = make_data(folder / "data.npz")
    options = ["--data", str(data), "--experts", "2", "--epochs", "4", "--batch-size", "12", "-o", str(folder / "e")]
    assert experts_main([*options, *NETWORK]) == 0
    torch.set_num_threads(threads)
    return SimpleNamespace(data=data, experts=folder / "e")


def match(made, out, *more, iterations=4, data=None, experts=None):
    options = ["tm", "--data", str(data or made.data), "--expert-dir", str(experts or made.experts), "-o", str(out)]
    options += ["--bytes", "4000", "--iterations", str(iterations), "--syn-steps", "3", "--batch-syn", "6"]
    return distill_main([*options, "--fit-steps", "30", "--expert-epochs", "1", *NETWORK, *more])


def test_the_file_says_what_was_learned_and_from_which_experts(made, tmp_path):
    out = tmp_path / "x.gsd"
    assert match(made, out, "--images-per-class", "4") == 0
    log = json.loads((tmp_path / "x.json").read_text())["log"]
    with gsdata.open(out) as file:
        file.verify()
        assert 0.98 * 4000 <= out.stat().st_size <= 4000
        assert file.recipe.lr not in (None, *(entry["lr"] for entry in log))  # the one after the last step
        assert file.recipe.lr == pytest.approx(log[-1]["lr"], abs=1e-3)
        assert file.recipe.model == "ConvNet-D1"
        experts = read_experts(made.experts)
        assert file.provenance["experts"] == {"digest": experts_digest(experts)[:32], "count": 2}
        command = file.provenance["command"]
    assert "--syn-steps 3" in command
    assert "--max-start-epoch 4" in command
    assert str(made.experts) not in command
    assert log[0]["lr"] == 0.01
    assert {entry["start_epoch"] for entry in log} <= {0, 1, 2, 3}
    assert not (tmp_path / "x.ckpt").exists()


def test_what_is_matched_comes_closer(made, tmp_path):
    out = tmp_path / "x.gsd"
    more = ("--max-start-epoch", "1", "--augment", "none", "--images-per-class", "2", "--batch-syn", "0", "--lr", "2")
    assert match(made, out, *more, "--lr-init", "0.05", "--init", "random", iterations=16) == 0
    losses = [entry["match"] for entry in json.loads((tmp_path / "x.json").read_text())["log"]]
    assert np.mean(losses[-4:]) < 0.98 * np.mean(losses[:4])


@pytest.mark.parametrize("options", [(), ("--gradient", "separable", "--rate-weight", "0.01", "--init", "random")])
def test_a_stopped_run_resumes_to_the_same_bytes(made, tmp_path, monkeypatch, options):
    monkeypatch.setattr(distillation, "WEIGH_EVERY", 2)
    assert match(made, tmp_path / "whole.gsd", *options) == 0
    step = distillation.Distillation.step

    def stop_at_three(self):
        if self.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.setattr(distillation.Distillation, "step", stop_at_three)
    out = tmp_path / "parts.gsd"
    assert match(made, out, *options, iterations=5) == 130
    monkeypatch.setattr(distillation.Distillation, "step", step)
    assert match(made, out, *options, "--resume") == 0
    assert out.read_bytes() == (tmp_path / "whole.gsd").read_bytes()
    log = json.loads((tmp_path / "parts.json").read_text())["log"]
    assert log == json.loads((tmp_path / "whole.json").read_text())["log"]


def test_whitened_experts_have_a_whitened_student_and_a_recipe(made, tmp_path, monkeypatch, capsys):
    folder, data = tmp_path / "e", str(made.data)
    train = ["--data", data, "--experts", "1", "--epochs", "1", "--zca", "0.2", "--limit", "30", "-o", str(folder)]
    assert experts_main([*train, *NETWORK]) == 0
    more = ("--limit", "30", "--init", "random")
    assert match(made, tmp_path / "whole.gsd", *more, experts=folder) == 0
    with gsdata.open(tmp_path / "whole.gsd") as file:
        zca = dict(file.recipe.zca)
    digest = read_experts(folder)[0].recipe.data[:32]
    assert zca == {"epsilon": 0.2, "data": "data.npz", "split": zca["split"], "digest": digest, "limit": 30, "seed": 0}

    # The map is kept in the checkpoint: a resumed run does not fit it again.
    step = distillation.Distillation.step
    stop = lambda self: (self.iteration == 2 and os.kill(os.getpid(), signal.SIGINT)) or step(self)  # noqa: E731
    monkeypatch.setattr(distillation.Distillation, "step", stop)
    assert match(made, tmp_path / "parts.gsd", *more, experts=folder) == 130
    monkeypatch.undo()
    monkeypatch.setattr(Whitening, "fit", lambda *a: pytest.fail("fitted again"))
    assert match(made, tmp_path / "parts.gsd", *more, "--resume", experts=folder) == 0
    assert (tmp_path / "parts.gsd").read_bytes() == (tmp_path / "whole.gsd").read_bytes()
    monkeypatch.undo()

    words = [str(tmp_path / "whole.gsd"), "--split", "train", "--seeds", "1", "--steps", "1", "--quiet"]
    assert evaluate_main([*words, "--data", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["normalization"] == {"zca": {"epsilon": 0.2}}
    (tmp_path / "other").mkdir()
    assert evaluate_main([*words, "--data", str(make_data(tmp_path / "other" / "data.npz", seed=1))]) == 2
    assert "whitened by other images" in capsys.readouterr().err
    assert evaluate_main([*words, "--data", data, "--sizes", "24"]) == 2
    assert "whitened by ZCA" in capsys.readouterr().err


def test_other_experts_are_another_run(made, tmp_path, monkeypatch, capsys):
    step = distillation.Distillation.step
    monkeypatch.setattr(
        distillation.Distillation, "step", lambda self: os.kill(os.getpid(), signal.SIGINT) or step(self)
    )
    out = tmp_path / "x.gsd"
    assert match(made, out) == 130
    fewer = tmp_path / "e"
    fewer.mkdir()
    expert_path(fewer, 0).write_bytes(expert_path(made.experts, 0).read_bytes())
    assert match(made, out, "--resume", experts=fewer) == 2
    assert "--expert-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--expert-epochs", "5"), "have 4 epochs, --expert-epochs 5 needs 5"),
        (("--max-start-epoch", "4", "--expert-epochs", "2"), "--max-start-epoch 4 and --expert-epochs 2 need 5"),
        (("--model", "ConvNet-D2"), "give --model ConvNet-D1"),
        (("--data", "{tmp}/other.npz"), "other images"),
        (("--limit", "30"), "--limit"),
        (("--expert-dir", "{tmp}"), "there are no experts"),
        (("--expert-dir", "{tmp}/missing"), "there are no experts"),
    ],
)
def test_impossible_requests_come_before_any_work(made, tmp_path, monkeypatch, capsys, options, says):
    for name in ("pretrain", "real_set", "noise_set"):
        monkeypatch.setattr(distillation, name, lambda *a, **k: pytest.fail("work was done"))
    make_data(tmp_path / "other.npz", classes=2)
    assert match(made, tmp_path / "x.gsd", *(o.replace("{tmp}", str(tmp_path)) for o in options)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.npz"]


def test_experts_of_two_recipes_are_refused(made, tmp_path, capsys):
    one, two = read_experts(made.experts)
    rows = np.stack([one.weights(epoch) for epoch in range(5)])
    write_expert(expert_path(tmp_path, 0), rows, one.recipe)
    write_expert(expert_path(tmp_path, 1), rows[:4], type(two.recipe)(**{**vars(two.recipe), "epochs": 3}))
    assert match(made, tmp_path / "x.gsd", experts=tmp_path) == 2
    assert "in epochs" in capsys.readouterr().err


def test_a_damaged_expert_is_a_bad_file(made, tmp_path, capsys):
    content = bytearray(expert_path(made.experts, 0).read_bytes())
    content[-5] ^= 64
    content[len(content) // 2] ^= 64
    expert_path(tmp_path, 0).write_bytes(bytes(content))
    assert match(made, tmp_path / "x.gsd", "--init", "random", iterations=20, experts=tmp_path) == 1
    assert re.search(r"expert-000.safetensors: the weights after epoch \d do not match", capsys.readouterr().err)


def test_only_images_that_a_student_sees_are_rendered_and_move(made, tmp_path, monkeypatch):
    seen = []
    render = gsdata.render
    monkeypatch.setattr(tm.gsdata, "render", lambda g, *a, **k: seen.append(len(g.counts)) or render(g, *a, **k))
    more = ("--syn-steps", "2", "--batch-syn", "2", "--images-per-class", "4", "--init", "random")
    assert match(made, tmp_path / "x.gsd", *more, iterations=3) == 0
    assert seen[:3] == [4, 4, 4]


@pytest.mark.parametrize(
    ("images", "batch", "size"), [(10, 3, 3), (10, 4, 4), (5, 8, 5), (6, 0, 6), (7, 7, 7), (9, 1, 1)]
)
def test_students_see_all_images_about_equally_often(images, batch, size):
    order = student_batches(images, 50, batch, 1, 2)
    assert order.shape == (50, size)
    assert all(len(set(row)) == size for row in order.tolist())
    counts = np.bincount(order.ravel(), minlength=images)
    assert counts.min() > 0.5 * counts.mean()
    assert np.array_equal(order[:7], student_batches(images, 7, batch, 1, 2))
    assert images == 1 or not np.array_equal(order, student_batches(images, 50, batch, 1, 3))
