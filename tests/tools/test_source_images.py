from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsdata.errors import GsdError
from gsdata_tools.source_images import decode, decode_all, resize_all
from gsdata_tools.usage import UsageError

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if hasattr(image, "save") else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_gray_and_color_are_kept():
    np.testing.assert_array_equal(decode("a", encoded(GRAY)), GRAY[..., None])
    np.testing.assert_array_equal(decode("a", encoded(COLOR)), COLOR)
    np.testing.assert_array_equal(decode("a", encoded(COLOR, "WEBP", lossless=True)), COLOR)
    np.testing.assert_array_equal(decode("a", encoded(GRAY > 99)), np.where(GRAY > 99, 255, 0)[..., None])


def test_palettes_and_other_color_spaces_become_rgb():
    palette = Image.fromarray(COLOR).quantize(4)
    np.testing.assert_array_equal(decode("a", encoded(palette)), np.asarray(palette.convert("RGB")))
    cmyk = encoded(Image.fromarray(COLOR).convert("CMYK"), "TIFF")
    np.testing.assert_array_equal(decode("a", cmyk), COLOR)
    assert decode("a", encoded(Image.fromarray(COLOR).convert("CMYK"), "JPEG")).shape == (5, 7, 3)


def test_transparency_is_composited_on_black():
    alpha = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    expected = COLOR * (alpha[..., None] / 255)
    rgba = decode("a", encoded(np.dstack([COLOR, alpha])))
    assert np.abs(rgba - expected).max() <= 1
    gray = decode("a", encoded(np.dstack([GRAY, alpha])))
    assert gray.shape == (5, 7, 1)
    assert np.abs(gray[..., 0] - GRAY * (alpha / 255)).max() <= 1
    keyed = decode("a", encoded(np.full((2, 2, 3), 200, np.uint8), transparency=(200, 200, 200)))
    assert (keyed == 0).all()
    palette = Image.fromarray(COLOR).quantize(4)
    transparent = decode("a", encoded(palette, transparency=bytes([0, 255, 255, 255])))
    index = np.asarray(palette)
    assert (transparent[index == 0] == 0).all()
    np.testing.assert_array_equal(transparent[index != 0], np.asarray(palette.convert("RGB"))[index != 0])


def test_sixteen_bits_are_rounded_to_eight():
    wide = np.array([[0, 128, 129, 257], [32768, 65407, 65406, 65535]], dtype=np.uint16)
    assert decode("a", encoded(wide))[..., 0].tolist() == [[0, 0, 1, 1], [128, 255, 254, 255]]


def test_32_bits_are_refused():
    with pytest.raises(GsdError, match=r"^a\.tif: pixels of 32 bits"):
        decode("a.tif", encoded(GRAY.astype(np.float32), "TIFF"))


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode("a", encoded(COLOR, exif=exif.tobytes())), np.rot90(COLOR, turn))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image of a known format"),
        (b"hello", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git-LFS pointer"),
        (encoded(COLOR)[:-30], "broken image"),
        (encoded(COLOR, "JPEG")[:-30], "broken image"),
    ],
)
def test_broken_images_are_one_line_that_names_the_file(data, message):
    with pytest.raises(GsdError, match=rf"^dogs/a\.png: {message}") as caught:
        decode("dogs/a.png", data)
    assert "\n" not in str(caught.value)


BASES = [
    encoded(COLOR),
    encoded(COLOR, "JPEG"),
    encoded(COLOR, "WEBP"),
    encoded(Image.fromarray(COLOR).quantize(9), "GIF"),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(BASES), st.data())
def test_damaged_images_are_errors_or_images(base, data):
    changed = bytearray(base)
    for _ in range(3):
        changed[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode("a", bytes(changed), size=(4, 4))
    except GsdError:
        return
    assert pixels.shape in ((4, 4, 1), (4, 4, 3))


def test_resizing_covers_crops_the_centre_and_is_antialiased():
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 255
    assert (decode("a", encoded(wide), (20, 20)) == 255).all(), "the sides are cropped equally"
    assert (decode("a", encoded(wide.T), (20, 20)) == 255).all()
    assert (decode("a", encoded(wide), (10, 30)) != decode("a", encoded(wide), (10, 10))[:, :1]).any()
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode("a", encoded(checks), (16, 16))[2:-2, 2:-2].astype(int)
    assert np.abs(small - 127).max() <= 4, "a checkerboard becomes gray, not noise"
    np.testing.assert_array_equal(decode("a", encoded(COLOR), (5, 7)), COLOR)
    assert decode("a", encoded(COLOR), (11, 3)).shape == (11, 3, 3)


@settings(max_examples=50, deadline=None)
@given(*[st.integers(1, 40)] * 4)
def test_any_size_from_any_size(height, width, out_height, out_width):
    flat = np.full((height, width, 3), (10, 200, 90), np.uint8)
    resized = decode("a", encoded(flat), (out_height, out_width))
    assert resized.shape == (out_height, out_width, 3)
    assert np.abs(resized.astype(int) - (10, 200, 90)).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_are_resized_like_files(channels):
    images = RNG.integers(0, 256, (2, 12, 9, channels), dtype=np.uint8)
    resized = resize_all(images, (6, 6))
    assert resized.shape == (2, 6, 6, channels)
    for index in range(2):
        for channel in range(channels):
            expected = decode("a", encoded(images[index, :, :, channel]), (6, 6))[..., 0]
            np.testing.assert_array_equal(resized[index, :, :, channel], expected)
    assert resize_all(images, (12, 9)) is images


def test_a_mix_of_gray_and_color_becomes_rgb():
    files = [("a", encoded(GRAY)), ("b", encoded(COLOR)), ("c", encoded(GRAY))]
    images = decode_all(iter(files), 3, None)
    np.testing.assert_array_equal(images[0], np.repeat(GRAY[..., None], 3, axis=2))
    np.testing.assert_array_equal(images[1], COLOR)
    np.testing.assert_array_equal(images[2], images[0])
    assert decode_all(iter(files[::2]), 2, None).shape == (2, 5, 7, 1)


def test_several_sizes_name_the_first_two():
    files = [("a.png", encoded(COLOR)), ("b.png", encoded(COLOR)), ("c.png", encoded(COLOR[:4])), ("d.png", b"")]
    with pytest.raises(UsageError, match=r"a\.png is 5x7, c\.png is 4x7 \(height x width\); --size"):
        decode_all(iter(files[:3]), 3, None)
    assert decode_all(iter(files[:3]), 3, (4, 4)).shape == (3, 4, 4, 3)
