from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import gsdata
from gsdata_tools import preview
from synthetic import gsd

MARGIN, GAP = preview._MARGIN, preview._GAP


def flat(colors, height=4, width=4):
    """One flat image per color (C values)."""
    return np.ones((len(colors), height, width, 1), np.uint8) * np.array(colors, np.uint8)[:, None, None, :]


def drawn(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def cells(sheet):
    """The colors of a sheet's flat cells, row by row: what is neither paper nor text, found by its own pixels."""
    seen = []
    for y in range(MARGIN + 8, sheet.shape[0] - MARGIN, 64 + GAP):
        line = sheet[y]
        changes = np.flatnonzero((line[1:] != line[:-1]).any(1)) + 1
        runs = zip([0, *changes], [*changes, len(line)], strict=True)
        seen.append([tuple(map(int, line[start])) for start, end in runs if end - start == 64])
    return seen


def test_one_line_per_class_in_order(tmp_path):
    red, green, blue, black = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
    labels = np.array([1, 0, 1, 0, 1])
    target = tmp_path / "sheet.png"
    sheet = preview.contact_sheet(flat([red, green, blue, black, red]), labels, ["cat", "dog"], target)
    assert sheet.lines == ((1, 3), (0, 2, 4))
    assert sheet.names == ("cat", "dog")
    assert cells(drawn(target)) == [[green, black], [red, blue, red]]


def test_names_stand_beside_their_lines(tmp_path):
    images = flat([(0, 0, 0)] * 2)
    paths = [tmp_path / name for name in ("named.png", "nameless.png")]
    preview.contact_sheet(images, np.array([0, 1]), ["cat", ""], paths[0])
    preview.contact_sheet(images, np.array([-1, -1]), [], paths[1], columns=1)
    named, nameless = (drawn(path) for path in paths)
    offset = named.shape[1] - nameless.shape[1]
    assert offset > 20
    dark = (named[:, MARGIN : MARGIN + offset - MARGIN] < 128).all(2).any(1)
    assert dark[MARGIN : MARGIN + 64].any(), "the name of the first class"
    assert not dark[MARGIN + 64 :].any(), "the second has none"
    np.testing.assert_array_equal(named[:, offset:], nameless)


@pytest.mark.parametrize(("side", "shown"), [(4, 64), (28, 56), (32, 64), (128, 128), (192, 192), (384, 192)])
def test_images_are_legible_and_pixels_square(tmp_path, side, shown):
    target = tmp_path / "sheet.png"
    preview.contact_sheet(flat([(9, 9, 9)], side, 2 * side), np.array([-1]), [], target)
    height, width = drawn(target).shape[:2]
    # The longer side decides; 2 x side is twice as wide as it is high.
    factor = max(1, round(64 / (2 * side)))
    expected = min(2 * side * factor, 192)
    assert (width - 2 * MARGIN, height - 2 * MARGIN) == (expected, expected // 2)
    preview.contact_sheet(flat([(9, 9, 9)], side, side), np.array([-1]), [], target)
    assert drawn(target).shape[0] - 2 * MARGIN == shown
    preview.contact_sheet(flat([(9, 9, 9)], 3, 3), np.array([-1]), [], target, scale=5)
    assert drawn(target).shape[0] - 2 * MARGIN == 15


def test_magnified_pixels_stay_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    target = tmp_path / "sheet.png"
    preview.contact_sheet(pixels, np.array([-1]), [], target)
    inside = drawn(target)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    np.testing.assert_array_equal(inside, pixels[0].repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize(
    ("color", "shown"),
    [
        ((70,), (70, 70, 70)),
        ((70, 255), (70, 70, 70)),
        ((70, 0), (255, 255, 255)),
        ((1, 2, 3), (1, 2, 3)),
        ((1, 2, 3, 255), (1, 2, 3)),
        ((1, 2, 3, 0), (255, 255, 255)),
    ],
)
def test_channels(tmp_path, color, shown):
    target = tmp_path / "sheet.png"
    preview.contact_sheet(flat([color]), np.array([-1]), [], target)
    assert tuple(drawn(target)[MARGIN + 5, MARGIN + 5]) == shown


def test_images_of_a_class_are_evenly_spaced():
    labels = np.repeat([0, 1], [100, 3])
    sheet = preview.arrange(labels, ["many", "few"], columns=4)
    assert sheet.lines == ((0, 25, 50, 75), (100, 101, 102))
    assert preview.arrange(labels, [], columns=4, max_images=4).lines == ((0, 50), (100, 101))
    assert preview.arrange(labels, []).names == ("0", "1")


def test_many_classes_are_thinned_out_and_counted():
    sheet = preview.arrange(np.arange(1000), [])
    assert len(sheet.lines) == preview.MAX_CLASSES
    assert sheet.left_out == 900
    assert sheet.names[:2] == ("0", "10")
    assert len(preview.arrange(np.arange(1000) % 50, [], max_images=20).indices) <= 20


def test_images_without_labels_fill_a_block_and_come_last():
    sheet = preview.arrange(np.full(40, -1), [])
    assert [len(line) for line in sheet.lines] == [8] * 5
    assert sheet.indices == list(range(40))
    assert set(sheet.names) == {""}
    assert preview.arrange(np.array([-1, 0]), ["a"]).names == ("a", "")
    assert preview.arrange(np.zeros(0, np.int64), []).lines == ()


def test_hostile_and_long_names(tmp_path):
    target = tmp_path / "sheet.png"
    names = ["\x1b]0;title\x07", "w" * 500, "\u202egnp"]
    sheet = preview.contact_sheet(flat([(0, 0, 0)] * 3), np.arange(3), names, target)
    assert sheet.names[0] == r"\x1b]0;title\x07"
    assert sheet.names[2] == r"\u202egnp"
    assert drawn(target).shape[1] <= 64 + 3 * MARGIN + preview._NAME_WIDTH


def test_a_file_is_rendered_as_uint8_and_only_where_shown(tmp_path, monkeypatch):
    file = gsdata.open(gsd([9] * 30, size=(64, 64), labels=[0, 1] * 15, classes=["a", "b"]))
    decoded = []
    original = file.gaussians
    monkeypatch.setattr(file, "gaussians", lambda indices: decoded.append(list(indices)) or original(indices))
    target = tmp_path / "sheet.png"
    sheet = preview.preview_file(file, target, columns=2)
    assert decoded == [[0, 14, 1, 15]]
    assert sheet.indices == decoded[0]
    pixels = gsdata.render(original([0]), dtype=np.uint8)[0].transpose(1, 2, 0)
    left = drawn(target).shape[1] - MARGIN - 2 * 64 - GAP
    np.testing.assert_array_equal(drawn(target)[MARGIN : MARGIN + 64, left : left + 64], pixels)
    preview.preview_file(file, target, columns=2, size=(40, 100))
    assert drawn(target).shape[0] == 2 * MARGIN + 2 * 40 + GAP


def test_large_images_are_rendered_smaller(tmp_path):
    file = gsdata.open(gsd([9], size=(384, 768)))
    target = tmp_path / "sheet.png"
    preview.preview_file(file, target)
    assert drawn(target).shape == (96 + 2 * MARGIN, 192 + 2 * MARGIN, 3)


def test_a_sheet_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "sheet.png"
    target.write_bytes(b"old")
    preview.contact_sheet(flat([(1, 2, 3)]), np.array([0]), ["a"], target)
    first = target.read_bytes()
    preview.contact_sheet(flat([(1, 2, 3)]), np.array([0]), ["a"], target)
    assert target.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    "images", [np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 5), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)]
)
def test_wrong_arrays(tmp_path, images):
    with pytest.raises(ValueError, match="images must be uint8"):
        preview.contact_sheet(images, np.array([0]), [], tmp_path / "sheet.png")
