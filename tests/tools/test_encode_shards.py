"""``gsd-encode --shards``: the set that it writes, and how it stops, goes on and shares its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gsdata
from gsdata.shards import ShardSet
from gsdata_tools import blocks, encode_run, encode_shards, fit, metrics, sources
from gsdata_tools.encode import main
from gsdata_tools.source_parts import ImageParts

from .test_encode import _images
from .test_ranks import pair


@pytest.fixture
def source(tmp_path):
    np.savez(tmp_path / "d.npz", x=_images(11), y=np.arange(11) % 3, classes=np.array(["a", "b", "c"]))
    return tmp_path / "d.npz"


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(encode_shards, "GROUP_BYTES", 3 * 16 * 16 * 3)  # groups of up to 3 images


def _encode(source, output, *options):
    return main(["--data", str(source), "--quiet", "--steps", "30", "--gaussians", "6", "-o", f"{output}/", *options])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_the_set_holds_the_images_in_order_and_the_report_is_about_it(source, tmp_path, capsys):
    assert _encode(source, tmp_path / "s", "--shards", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "s/all.json").read_text()) == report
    found = ShardSet(tmp_path / "s")
    assert [path.name for path in found.paths] == ["all-000000.tar", "all-000001.tar"]
    assert [group.images for group in found.groups] == [2, 3, 3, 3]
    images, psnr, first = np.load(source)["x"], [], 0
    for file in found.files():
        file.verify()
        assert file.classes == ("a", "b", "c")
        assert file.labels.tolist() == [i % 3 for i in range(first, first + len(file))]
        assert file.provenance["part"] == {"first": first, "images": len(file)}
        assert file.provenance["source"]["images"] == 11
        assert file.provenance["source"]["sha256"] == sources.load(str(source)).digest
        assert file.recipe.mean == pytest.approx(images.mean((0, 1, 2)) / 255, abs=1e-6)
        assert file.recipe.std == pytest.approx(images.std((0, 1, 2)) / 255, abs=1e-6)
        psnr += metrics.psnr(encode_run.decoded(file.codes()), images[first : first + len(file)]).tolist()
        first += len(file)
    assert report["psnr_mean"] == pytest.approx(np.mean(psnr))
    assert report["psnr_min"] == pytest.approx(min(psnr))
    assert report["bytes_total"] == sum(map(len, contents(tmp_path / "s").values()))
    assert (report["images"], report["shards"], report["gaussians"], report["processes"]) == (11, 2, 66, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "s"]


def test_a_group_is_encoded_as_its_images_alone(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_shards, "GROUP_BYTES", 1 << 20)
    assert _encode(source, tmp_path / "s", "--shards", "1") == 0
    assert (
        main(["--data", str(source), "--quiet", "--steps", "30", "--gaussians", "6", "-o", str(tmp_path / "o.gsd")])
        == 0
    )
    (file,) = ShardSet(tmp_path / "s").files()
    with gsdata.open(tmp_path / "o.gsd") as one:
        assert np.array_equal(file.gaussians().means, one.gaussians().means)
        assert np.array_equal(file.gaussians().colors, one.gaussians().colors)
        assert file.recipe == one.recipe
        assert {key: file.provenance[key] for key in one.provenance} == one.provenance


def test_an_image_starts_alike_in_any_number_of_shards(source, tmp_path, monkeypatch):
    starts = []
    start = fit._start
    monkeypatch.setattr(fit, "_start", lambda *a: starts.append(start(*a)) or starts[-1].copy())
    monkeypatch.setattr(encode_shards, "compile_kernels", lambda: None)
    for number in ("1", "3"):
        assert _encode(source, tmp_path / number, "--shards", number, "--threads", "1") == 0
    assert len(starts) == 22
    for one, other in zip(starts[:11], starts[11:], strict=True):
        assert np.array_equal(one, other)


def test_a_budget_is_that_of_the_tars(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(encode_shards, "GROUP_BYTES", 1 << 20)
    arguments = ["--data", str(source), "--quiet", "--steps", "30", "--shards", "2", "-o", f"{tmp_path}/s"]
    assert main([*arguments, "--bytes-per-image", "60"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    least = int(said.partition("ask for ")[2].split()[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz"]
    for budget in (least + 10, 1600):  # the header itself, which holds the budget, weighs a few bytes more or less
        assert main([*arguments, "--bytes-per-image", str(budget), "--force"]) == 0
        total = sum(map(len, contents(tmp_path / "s").values()))
        assert total <= budget * 11
    assert total >= 0.9 * 1600 * 11  # a tar is made of blocks of 512 bytes


def test_an_interrupted_run_resumes_to_the_same_bytes(source, tmp_path, monkeypatch, capsys):
    assert _encode(source, tmp_path / "whole", "--shards", "2") == 0
    update = encode_run.cli.Progress.update

    def interrupt_at(done_at):
        def interrupt(self, done, **numbers):
            update(self, done, **numbers)
            if self.label == "fits" and done == done_at:
                raise KeyboardInterrupt

        return interrupt

    def part(*options):
        return _encode(source, tmp_path / "part", "--shards", "2", *options)

    with monkeypatch.context() as patch:  # in the second group of the second shard
        patch.setattr(encode_run.cli.Progress, "update", interrupt_at(11))
        assert part() == 130
    assert "--resume" in capsys.readouterr().err
    assert list(contents(tmp_path / "part")) == ["all-000000.tar"]
    assert (tmp_path / "part.ckpt").is_dir()
    assert part() == 2
    assert "--resume" in capsys.readouterr().err
    assert _encode(source, tmp_path / "part", "--shards", "3", "--resume") == 2
    assert "--shards 2" in capsys.readouterr().err
    assert part("--steps", "31", "--resume") == 2
    computed = []
    start = fit._start
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_start", lambda *a: computed.append(1) or start(*a))
        patch.setattr(encode_shards, "compile_kernels", lambda: None)
        assert part("--resume") == 0
    assert len(computed) <= 3
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert (tmp_path / "part/all.json").exists()
    assert not (tmp_path / "part.ckpt").exists()


def test_an_older_larger_set_goes_also_if_the_run_is_stopped_before_it_comes_to_that(source, tmp_path, monkeypatch):
    assert _encode(source, tmp_path / "whole", "--shards", "2") == 0
    assert _encode(source, tmp_path / "part", "--shards", "4", "--seed", "1") == 0
    plan_steps = encode_run.Run.plan_steps

    def stop(self, *arguments):
        plan_steps(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode_run.Run, "plan_steps", stop)
        assert _encode(source, tmp_path / "part", "--shards", "2", "--force") == 130
    assert len(contents(tmp_path / "part")) == 4
    assert _encode(source, tmp_path / "part", "--shards", "2", "--resume") == 0
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_sets_whose_names_differ_after_a_dot_have_checkpoints_of_their_own(source, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(encode_shards, "_report", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert _encode(source, tmp_path / "s.v1", "--shards", "2") == 130
    assert "--resume" in capsys.readouterr().err
    assert _encode(source, tmp_path / "s.v2", "--shards", "2") == 0
    assert _encode(source, tmp_path / "s.v1", "--shards", "2", "--resume") == 0
    assert contents(tmp_path / "s.v1") == contents(tmp_path / "s.v2")


@pytest.mark.parametrize("damage", ["cut", "byte", "other"])
def test_a_finished_shard_is_verified_before_it_is_kept(source, tmp_path, monkeypatch, capsys, damage):
    assert _encode(source, tmp_path / "whole", "--shards", "2") == 0
    with monkeypatch.context() as patch:
        patch.setattr(encode_shards, "_report", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert _encode(source, tmp_path / "part", "--shards", "2") == 130
    path = tmp_path / "part/all-000001.tar"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-600]
    elif damage == "byte":
        data[ShardSet(path).groups[1].offset + 300] ^= 4
    else:
        data = (tmp_path / "whole/all-000000.tar").read_bytes()
    path.write_bytes(data)
    computed = []
    start = fit._start
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_start", lambda *a: computed.append(1) or start(*a))
        patch.setattr(encode_shards, "compile_kernels", lambda: None)
        assert _encode(source, tmp_path / "part", "--shards", "2", "--resume") == 0
    assert "all-000001.tar is encoded again" in capsys.readouterr().err
    assert len(computed) == 6
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    np.savez(tmp_path / "d.npz", x=_images(24))
    command = [
        sys.executable, "-c", "from gsdata_tools import encode, encode_shards; encode_shards.GROUP_BYTES = 4 * 768; raise SystemExit(encode.main())",
        "--data", str(tmp_path / "d.npz"), "--quiet", "--gaussians", "12", "--threads", "1", "--steps", "900", "--shards", "3",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen([*command, "-o", f"{tmp_path}/a"], env=environment)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "a").glob("*-000001.tar")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    for name, options in (("a", ["--resume"]), ("b", [])):
        subprocess.run([*command, "-o", f"{tmp_path}/{name}", *options], env=environment, check=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 3
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [*sorted(contents(tmp_path / "a")), "all.json"]


def test_two_processes_write_the_bytes_of_one(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_shards, "GROUP_BYTES", 64 << 20)
    assert _encode(source, tmp_path / "one", "--shards", "3") == 0
    options = ["--data", source, "--steps", "30", "--gaussians", "6", "--shards", "3", "--json", "-o", tmp_path / "two"]
    codes, errors = pair("import sys; from gsdata_tools.encode import main; sys.exit(main(sys.argv[1:]))", *options)
    assert codes == [0, 0], errors
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    one, two = (json.loads((tmp_path / name / "all.json").read_text()) for name in ("one", "two"))
    assert two["processes"] == 2
    differ = {"processes", "seconds", "images_per_second"}
    assert {k: v for k, v in one.items() if k not in differ} == {k: v for k, v in two.items() if k not in differ}
    assert not (tmp_path / "two.ckpt").exists()


def test_nothing_is_overwritten_unasked_and_force_leaves_no_old_shard(source, tmp_path, capsys):
    assert _encode(source, tmp_path / "s", "--shards", "3") == 0
    (tmp_path / "s/train-000000.tar").write_text("of another set")
    assert _encode(source, tmp_path / "s", "--shards", "2") == 2
    assert "--force" in capsys.readouterr().err
    assert _encode(source, tmp_path / "s", "--shards", "2", "--resume") == 2
    assert "to resume from" in capsys.readouterr().err
    assert _encode(source, tmp_path / "s", "--shards", "2", "--force") == 0
    assert sorted(contents(tmp_path / "s")) == ["all-000000.tar", "all-000001.tar", "train-000000.tar"]
    assert len(ShardSet(f"{tmp_path}/s/all-*.tar")) == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "12"], "there are 11 images"),
        (["--shards", "0"], "at least 1"),
        (["--shards", "2000000"], "at most 1,000,000"),
        (["--shards", "2", "--bits", "1/2/3"], "four bit widths"),
        (["--shards", "2", "--split", "val"], "split"),
    ],
)
def test_what_cannot_be_met_is_exit_2_and_one_line(source, tmp_path, capsys, options, message):
    assert _encode(source, tmp_path / "s", *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz"]


def test_an_output_that_is_no_folder_is_refused(source, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for output, message in (("x.gsd", "this is a folder"), ("file", "is a file"), ("no/where", "make it first")):
        arguments = ["--data", str(source), "--shards", "2", "-o", str(tmp_path / output)]
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_several_processes_need_shards(source, tmp_path, monkeypatch, capsys):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["--data", str(source), "-o", str(tmp_path / "o.gsd")]) == 2
    assert "--shards" in capsys.readouterr().err


def test_a_time_limit_makes_fewer_steps_and_says_how_many(source, tmp_path, capsys):
    arguments = ["--data", str(source), "--gaussians", "6", "--shards", "2", "--steps", "100000000"]
    assert main([*arguments, "-o", f"{tmp_path}/a", "--time-limit", "3s", "--json"]) == 0
    captured = capsys.readouterr()
    steps = json.loads(captured.out)["steps"]
    assert f"--steps {steps}" in captured.err
    assert main([*arguments[:-1], str(steps), "-o", f"{tmp_path}/b", "--quiet"]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_bad_images_end_in_one_line_before_anything_is_written(tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "f"
    folder.mkdir()
    for number, image in enumerate(_images(5)):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    assert _encode(folder, tmp_path / "s", "--shards", "2") == 1
    assert "3.png" in capsys.readouterr().err
    Image.fromarray(_images(1, 9, 9)[0]).save(folder / "3.png")
    assert _encode(folder, tmp_path / "s", "--shards", "2") == 2
    assert "several sizes" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f"]


def test_a_survey_says_of_parts_what_load_says_of_all(tmp_path, monkeypatch):
    from PIL import Image

    from gsdata_tools import source_parts

    monkeypatch.setattr(source_parts, "_PART_BYTES", 2 * 16 * 16)
    images = _images(7)
    for number, image in enumerate(images):  # gray but for the sixth
        picture = Image.fromarray(image)
        (picture if number == 5 else picture.convert("L")).save(tmp_path / f"{number}.png")
    parts, whole = ImageParts(str(tmp_path)), sources.load(str(tmp_path))
    survey = parts.survey()
    assert survey.digest == whole.digest
    assert survey.shape == (16, 16, 3)
    assert survey.mean == pytest.approx(whole.images.mean((0, 1, 2)) / 255)
    assert survey.std == pytest.approx(whole.images.std((0, 1, 2)) / 255)
    assert np.array_equal(parts.read(2, 4, survey).images, whole.images[2:4])
    assert parts.read(2, 4, survey).digest == whole.digest
    Image.fromarray(images[0][:8]).save(tmp_path / "6.png")
    with pytest.raises(sources.UsageError, match="several sizes"):
        ImageParts(str(tmp_path)).survey()


def test_blocks_are_kept_within_a_group(source, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_PIXELS", 4 * 16 * 16)
    monkeypatch.setattr(encode_shards, "GROUP_BYTES", 1 << 20)
    update = encode_run.cli.Progress.update

    def interrupt(self, done, **numbers):
        update(self, done, **numbers)
        if self.label == "fits" and done == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode_run.cli.Progress, "update", interrupt)
        assert _encode(source, tmp_path / "s", "--shards", "1") == 130
    computed = []
    start = fit._start
    monkeypatch.setattr(fit, "_start", lambda *a: computed.append(1) or start(*a))
    monkeypatch.setattr(encode_shards, "compile_kernels", lambda: None)
    assert _encode(source, tmp_path / "s", "--shards", "1", "--resume") == 0
    assert len(computed) == 3
