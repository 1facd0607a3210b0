from __future__ import annotations

import gc
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata
from gsdata.shards import ShardWriter, write_shard
from gsdata.testing import make_codes
from gsdata_tools import export, export_source
from gsdata_tools.sources import load

LABELS = np.array([2, 0, 1, 0, 1, 2, 2, 0, 1, 1, 0])
CLASSES = ("ant", "bee", "cow")
TRICKS = ("../x", "a/b", "CON", "", "y" * 300, "nul\0", "..", "a\\b", "C:\\x", ".hidden", "test")


def a_file(path: Path, *, channels: int = 3, images: int = 11, **options: Any) -> Path:
    if not {"labels", "soft_labels"} & options.keys():
        options |= {"labels": LABELS[:images], "classes": options.get("classes", CLASSES)}
    codes = make_codes(1, [5] * images, channels=channels, size=(9, 12))
    gsdata.save(path, codes, chunk_images=4, **{name: value for name, value in options.items() if value is not None})
    return path


def pixels(path: Path, size: Any = None) -> np.ndarray:
    with gsdata.open(path) as file:
        return np.asarray(gsdata.render(file.gaussians(), size, dtype="uint8")).transpose(0, 2, 3, 1)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = export.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def exported(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, *words: object, **options: Any) -> Path:
    file = a_file(tmp_path / "x.gsd", **options)
    out = tmp_path / ("out.npz" if form == "npz" else "out")
    code, _, err = run(capsys, file, "--to", form, "-o", out, *words)
    assert code == 0, err
    return out


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images at a time: batches end within chunks, and chunks within batches."""
    monkeypatch.setattr(export_source, "BATCH_VALUES", 3 * 9 * 12 * 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet"])
def test_our_own_reader_gets_the_same_pixels_and_labels(form, channels, tmp_path, capsys):
    out = exported(tmp_path, capsys, form, channels=channels)
    back = load(str(out))
    order = np.arange(11)
    if form == "png":  # folders interleave classes: the first of each, the second of each, ...
        rank = np.array([np.sum(LABELS[:i] == LABELS[i]) for i in range(11)])
        order = np.lexsort((LABELS, rank))
    assert np.array_equal(back.images, pixels(tmp_path / "x.gsd")[order])
    assert back.labels.tolist() == LABELS[order].tolist()
    assert back.classes == (("0", "1", "2") if form == "wds" else CLASSES)


@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet", "pt"])
def test_what_is_written_does_not_depend_on_batches_and_is_the_same_again(form, tmp_path, capsys, monkeypatch):
    first = exported(tmp_path, capsys, form, *(["--normalize", "none"] if form == "pt" else []))
    other = tmp_path / first.with_stem("other").name
    monkeypatch.setattr(export_source, "BATCH_VALUES", 1)
    words = ["--normalize", "none"] if form == "pt" else []
    assert run(capsys, tmp_path / "x.gsd", "--to", form, "-o", other, *words)[0] == 0
    files = [first] if form == "npz" else [file for file in sorted(first.rglob("*")) if file.is_file()]
    assert files
    for file in files:
        assert file.read_bytes() == (other if form == "npz" else other / file.relative_to(first)).read_bytes(), (
            file.name
        )


@pytest.mark.parametrize("classes", [CLASSES, ("cow", "ant", "bee"), None], ids=["sorted", "unsorted", "none"])
def test_torchvision_reads_class_folders(classes, tmp_path, capsys):
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: it does not fit the build of PyTorch
        pytest.skip(f"torchvision: {error}")
    options: dict[str, Any] = {"labels": LABELS, "classes": classes}
    back = datasets.ImageFolder(exported(tmp_path, capsys, "png", **options))
    order = np.argsort(LABELS, kind="stable")
    assert back.targets == LABELS[order].tolist()
    assert np.array_equal(np.stack([np.asarray(image) for image, _ in back]), pixels(tmp_path / "x.gsd")[order])
    assert back.classes == {CLASSES: list(CLASSES), None: ["0", "1", "2"]}.get(classes, ["0_cow", "1_ant", "2_bee"])


def test_flat_folders_keep_the_order_and_list_the_labels(tmp_path, capsys):
    out = exported(tmp_path, capsys, "png", "--layout", "flat")
    assert np.array_equal(load(str(out)).images, pixels(tmp_path / "x.gsd"))
    said = json.loads((out / "export.json").read_text())
    assert (said["labels"], said["classes"]) == (LABELS.tolist(), list(CLASSES))


def test_npz_at_another_size(tmp_path, capsys):
    out = exported(tmp_path, capsys, "npz", "--size", "5x7")
    with np.load(out) as archive:
        assert sorted(archive.files) == ["classes", "x", "y"]
        assert np.array_equal(archive["x"], pixels(tmp_path / "x.gsd", (5, 7)))
        assert archive["y"].dtype == np.int64


def test_tensors_load_safely_in_the_order_of_classes(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    recipe = gsdata.Recipe(mean=(0.5,) * 3, std=(0.25,) * 3, lr=0.02)
    out = exported(tmp_path, capsys, "pt", "--json", recipe=recipe)
    tensors = {name: torch.load(out / f"{name}.pt", weights_only=True) for name in ("images", "labels", "lr")}
    order = np.argsort(LABELS, kind="stable")
    with gsdata.open(tmp_path / "x.gsd") as file:
        expected = (np.asarray(gsdata.render(file.gaussians()))[order] - 0.5) / 0.25
    np.testing.assert_allclose(tensors["images"].numpy(), expected, atol=1e-6)
    assert tensors["labels"].tolist() == LABELS[order].tolist()
    assert tensors["lr"].item() == pytest.approx(0.02)
    assert sorted(file.name for file in out.iterdir()) == ["export.json", "images.pt", "labels.pt", "lr.pt"]


@pytest.mark.parametrize(
    ("recipe", "source", "words", "mean"),
    [
        ({"mean": (0.5,) * 3, "std": (0.25,) * 3}, "cifar10", [], 0.4914),
        ({"mean": (0.5,) * 3, "std": (0.25,) * 3}, "cifar10", ["--normalize", "recipe"], 0.5),
        ({"mean": (0.5,) * 3, "std": (0.25,) * 3}, "photos", [], 0.5),
        ({}, "photos", ["--normalize", "imagenette-128"], 0.485),
        ({}, "photos", ["--normalize", "none"], None),
        ({}, "photos", [], "say --normalize none, or one of cifar10"),
        ({"zca": {"epsilon": 0.1}}, "cifar10", [], "whitens by ZCA"),
    ],
)
def test_how_tensors_are_normalised(recipe, source, words, mean, tmp_path, capsys):
    pytest.importorskip("torch")
    file = a_file(tmp_path / "x.gsd", recipe=gsdata.Recipe(**recipe), provenance={"source": {"name": source}})
    code, out, err = run(capsys, file, "--to", "pt", "-o", tmp_path / "out", "--json", "--quiet", *words)
    if isinstance(mean, str):
        assert (code, out, mean in err, err.count("\n")) == (2, "", True, 1)
        assert not (tmp_path / "out").exists()
        return
    unit = json.loads(out)["normalization"]
    assert (unit if mean is None else unit["mean"][0]) == mean
    assert not (tmp_path / "out" / "lr.pt").exists()


def test_tensors_of_an_encoded_file_are_limited_as_networks_see_them(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    words = ("--normalize", "none")
    plain = torch.load(exported(tmp_path, capsys, "pt", *words) / "images.pt", weights_only=True)
    assert plain.min() < 0 or plain.max() > 1
    recipe = gsdata.Recipe(clamp=True)
    (tmp_path / "clamped").mkdir()
    out = exported(tmp_path / "clamped", capsys, "pt", *words, recipe=recipe)
    assert torch.equal(torch.load(out / "images.pt", weights_only=True), plain.clamp(0, 1))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # it leaves files open
def test_webdataset_reads_the_shards(tmp_path, capsys):
    wds = pytest.importorskip("webdataset")
    out = exported(tmp_path, capsys, "wds", "--shard-images", 4, "--split", "test")
    shards = sorted(out.glob("*.tar"))
    assert [file.name for file in shards] == [f"test-{k:06d}.tar" for k in range(3)]
    read = list(
        wds.WebDataset([str(file) for file in shards], shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    )
    assert np.array_equal(np.stack([image for image, _ in read]), pixels(tmp_path / "x.gsd"))
    assert [label for _, label in read] == LABELS.tolist()
    gc.collect()  # what it left open is closed here, where its warning is expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_hugging_face_reads_the_parquet(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    soft = np.eye(3)[LABELS] * 3 + np.array([0.0, 1.0, 0.0])
    out = exported(tmp_path, capsys, "parquet", "--shard-images", 5, soft_labels=soft, classes=CLASSES)
    assert len(list(out.glob("train-0000?-of-00003.parquet"))) == 3
    back = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert np.array_equal(np.stack([np.asarray(row["image"]) for row in back]), pixels(tmp_path / "x.gsd"))
    assert back["label"][:] == LABELS.tolist()
    assert tuple(back.features["label"].names) == CLASSES
    with gsdata.open(tmp_path / "x.gsd") as file:
        np.testing.assert_allclose(np.array(back["soft_label"][:]), file.soft_labels, rtol=1e-6)


def test_soft_labels_are_kept_where_the_format_can(tmp_path, capsys):
    soft = np.eye(3)[LABELS] * 3 + np.array([0.0, 1.0, 0.0])
    file = a_file(tmp_path / "x.gsd", soft_labels=soft, classes=CLASSES)
    with gsdata.open(file) as opened:
        weights = opened.soft_labels
    assert weights is not None
    for form, said in (("png", "class of the largest weight"), ("npz", "soft: all"), ("wds", "soft.npy: all")):
        out = tmp_path / (f"{form}.npz" if form == "npz" else form)
        code, _, err = run(capsys, file, "--to", form, "-o", out)
        assert (code, said in err) == (0, True)
    with np.load(tmp_path / "npz.npz") as archive:
        assert np.array_equal(archive["soft"], weights)
        assert archive["y"].tolist() == LABELS.tolist()
    with tarfile.open(tmp_path / "wds" / "shard-000000.tar") as tar:
        assert [member.name for member in tar][:3] == ["00.png", "00.cls", "00.soft.npy"]
        stored = tar.extractfile("07.soft.npy")
        assert stored is not None
        assert np.array_equal(np.load(io.BytesIO(stored.read())), weights[7])


@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet", "pt"])
def test_images_without_labels(form, tmp_path, capsys):
    file = a_file(tmp_path / "x.gsd", labels=None)
    out = tmp_path / ("out.npz" if form == "npz" else "out")
    code, _, err = run(capsys, file, "--to", form, "-o", out, "--quiet")
    if form == "pt":
        assert (code, "has no labels" in err, out.exists()) == (2, True, False)
        return
    assert code == 0
    back = load(str(out))
    assert np.array_equal(back.images, pixels(file))
    assert (set(back.labels.tolist()), back.classes) == ({-1}, ())


@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet"])
def test_names_of_classes_lead_nowhere(form, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    out = exported(tmp_path / "in", capsys, form, "--json", labels=np.arange(11), classes=TRICKS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert sorted(entry.name for entry in (tmp_path / "in").iterdir()) == sorted(["x.gsd", out.name])
    back = load(str(out))
    assert np.array_equal(back.images, pixels(tmp_path / "in" / "x.gsd"))
    assert back.labels.tolist() == list(range(11))
    if form != "npz":
        assert json.loads((out / "export.json").read_text())["classes"] == list(TRICKS)
    if form == "png":
        assert back.classes == tuple(json.loads((out / "export.json").read_text())["folders"])


def test_a_class_without_images_has_no_folder_and_that_is_said(tmp_path, capsys):
    file = a_file(tmp_path / "x.gsd", labels=np.array([0, 2] * 5 + [0]), classes=CLASSES)
    code, _, err = run(capsys, file, "--to", "png", "-o", tmp_path / "out")
    assert (code, "'bee'" in err) == (0, True)
    assert load(str(tmp_path / "out")).classes == ("ant", "cow")


def test_memory_does_not_grow_with_the_set(tmp_path, capsys, monkeypatch):
    file = a_file(tmp_path / "x.gsd", images=11)
    rendered: list[int] = []
    render = gsdata.render

    def counted(gaussians: gsdata.Gaussians, *arguments: Any, **options: Any) -> Any:
        assert gaussians.num_images <= 4  # a chunk
        result = render(gaussians, *arguments, **options)
        rendered.append(len(result))
        return result

    monkeypatch.setattr(gsdata, "render", counted)
    for form in ("png", "npz", "wds", "parquet", "pt"):
        rendered.clear()
        words = ["--normalize", "none"] if form == "pt" else []
        out = tmp_path / (f"{form}.npz" if form == "npz" else form)
        assert run(capsys, file, "--to", form, "-o", out, *words)[0] == 0
        assert rendered == [3, 1, 3, 1, 3]


@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet", "pt"])
def test_shards_give_what_one_file_gives(form, tmp_path, capsys):
    file = a_file(tmp_path / "x.gsd", recipe=gsdata.Recipe(mean=(0.5,) * 3, std=(0.2,) * 3, lr=0.1))
    with gsdata.open(file) as whole, ShardWriter(tmp_path / "shards", "all", shard_images=6) as writer:
        for part in ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10]):
            writer.add(whole.subset(part))
    outs = [tmp_path / f"{name}.npz" if form == "npz" else tmp_path / name for name in ("one", "many")]
    for source, out in zip((file, tmp_path / "shards"), outs, strict=True):
        assert run(capsys, source, "--to", form, "-o", out)[0] == 0
    one, many = ([out] if form == "npz" else sorted(f for f in out.rglob("*") if f.is_file()) for out in outs)
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        assert a.name == "export.json" or a.read_bytes() == b.read_bytes(), a.name


def test_a_missing_shard_is_noticed(tmp_path, capsys):
    data = a_file(tmp_path / "x.gsd").read_bytes()
    (tmp_path / "shards").mkdir()
    for number in (0, 2):
        write_shard(tmp_path / "shards", "all", number, [11], [data], shards=3)
    code, _, err = run(capsys, tmp_path / "shards", "--to", "png", "-o", tmp_path / "out")
    assert (code, "shard 1 is missing" in err, (tmp_path / "out").exists()) == (1, True, False)


@pytest.mark.parametrize("form", ["png", "npz", "wds", "parquet", "pt"])
def test_what_is_stopped_leaves_nothing(form, tmp_path, capsys, monkeypatch):
    file = a_file(tmp_path / "x.gsd")
    batches = export_source.ImageStream.batches

    def stopped(self: export_source.ImageStream, dtype: str = "uint8") -> Any:
        for batch in batches(self, dtype):
            if batch.start > 5:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(export_source.ImageStream, "batches", stopped)
    words = ["--normalize", "none"] if form == "pt" else []
    out = tmp_path / ("out.npz" if form == "npz" else "out")
    code, _, err = run(capsys, file, "--to", form, "-o", out, "--quiet", *words)
    assert (code, "nothing was written" in err) == (130, True)
    assert list(tmp_path.iterdir()) == [file]


def test_a_damaged_file_leaves_nothing(tmp_path, capsys):
    file = a_file(tmp_path / "x.gsd")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    code, _, err = run(capsys, file, "--to", "png", "-o", tmp_path / "out", "--quiet")
    assert (code, err.count("\n"), str(file) in err) == (1, 1, True)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no.gsd", "--to", "png", "-o", "out"], "there is no such file"),
        (["empty.gsd", "--to", "png", "-o", "out"], "no images to export"),
        (["x.gsd", "--to", "png", "-o", "out", "--split", "test"], "--split is for --to wds and parquet"),
        (["x.gsd", "--to", "wds", "-o", "out", "--layout", "flat"], "--layout is for --to png"),
        (["x.gsd", "--to", "wds", "-o", "out", "--split", "../x"], "is not a word"),
        (["x.gsd", "--to", "npz", "-o", "out"], "must end in .npz"),
        (["x.gsd", "--to", "png", "-o", "there"], "not empty"),
        (["x.gsd", "--to", "png", "-o", "there", "--force"], "something else than an export"),
        (["x.gsd", "--to", "png", "-o", "out", "--size", "40000"], "--size"),
    ],
)
def test_requests_that_cannot_be_met(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_file(Path("x.gsd"))
    gsdata.save("empty.gsd", make_codes(0, []))
    Path("there").mkdir()
    Path("there/mine.txt").write_text("mine")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("out").exists()
    assert [entry.name for entry in Path("there").iterdir()] == ["mine.txt"]


def test_force_replaces_an_earlier_export_as_a_whole(tmp_path, capsys):
    out = exported(tmp_path, capsys, "png")
    words = [tmp_path / "x.gsd", "--to", "wds", "-o", out]
    assert run(capsys, *words)[0] == 2
    assert run(capsys, *words, "--force")[0] == 0
    assert sorted(entry.name for entry in out.iterdir()) == ["export.json", "shard-000000.tar"]
