"""The page of ``gsd-inspect --html`` in a headless Chromium, from disk and without a network, with and without WebGL2.

Slow: ``make test-slow``. Skipped where there is no Chromium.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gsdata
from browser import PROGRAM, Browser
from gsdata.quantize import Quantizer, QuantizerSet
from gsdata.testing import SET, make_codes
from gsdata_tools import page as pages
from gsdata_tools.page import page
from synthetic import gsd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="chromium: not installed"),
]
VECTORS = sorted((Path(__file__).parents[2] / "spec" / "vectors" / "render").glob("*.gsd"))
NAMES = ["ant", "bee </script><script>document.title='run'</script>", "<img src=x onerror=document.title='run'>"]
BACKENDS = {"#webgl": "drawn with WebGL2", "#canvas": "drawn without WebGL2"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Any:
    """Opens the page of a file; afterwards it must have logged no error, such as a breach of its security policy."""
    browser.messages.clear()
    browser.resize(1280, 900)

    def open_page(data: bytes, fragment: str = "") -> None:
        (tmp_path / "page.html").write_bytes(page(data, "set.gsd"))
        browser.open(tmp_path / "page.html", fragment)

    yield open_page
    assert [message for message in browser.messages if '"level": "warning"' not in message] == []


def small(**options: Any) -> bytes:
    counts = [7, 3, 0, 12, 1, 9] * 10
    classes = {"labels": [2, 0, 1, 1, 0, 2] * 10, "classes": NAMES}
    return gsd(counts, chunk_images=16, **{**classes, "metadata": {"note": NAMES[1], NAMES[2]: [1, 2.5]}, **options})


def drawn(browser: Browser) -> None:
    browser.until("gsd.painter.jobs.length === 0 && !gsd.painter.drawing")


def text(browser: Browser, name: str) -> str:
    found: str = browser.evaluate(f"document.getElementById({name!r}).textContent")
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.stem)
def test_pixels_are_those_of_the_vectors(browser, show, vector, backend):
    expected = json.loads(vector.with_suffix(".json").read_text())
    channels = expected["header"]["gaussians"]["channels"]
    places = [[0], [0, 3], [0, 1, 2], [0, 1, 2, 3]][channels - 1]
    show(vector.read_bytes(), backend)
    assert text(browser, "backend") == BACKENDS[backend]
    for picture in expected["renders"]:
        height, width = picture["size"]
        found = browser.evaluate(f"gsd.painter.pixels({picture['image']}, {height}, {width})")
        assert len(found) == 4 * height * width
        pixels = [found[4 * i + place] for place in places for i in range(height * width)]
        for value, byte, pixel in zip(picture["pixels"], picture["bytes"], pixels, strict=True):
            near = abs(min(max(value, 0), 1) * 255 - pixel) <= 0.51  # either neighbour of a half
            assert pixel == byte or (byte is None and near), (vector.stem, picture["size"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_on_the_screen(browser, show, backend, tmp_path):
    show(small(), backend)
    drawn(browser)
    assert text(browser, "headline").startswith("60 images of 12x10 pixels, 3 classes, ")
    titles = browser.evaluate("Array.from(document.querySelectorAll('#grid h3 bdi'), (e) => e.textContent)")
    assert titles == NAMES
    assert "note" in text(browser, "tables")
    assert NAMES[1] in text(browser, "tables")
    assert browser.evaluate("document.title") == "set.gsd"
    assert browser.evaluate("document.querySelectorAll('#grid img, #tables img, #legend img').length") == 0
    # Every image is there: no two of them that have Gaussians look the same, none is the placeholder.
    looks = browser.evaluate(
        "Array.from(document.querySelectorAll('#grid canvas'), (c) => Array.from(c.getContext('2d').getImageData(0, 0, 40, 40).data).join())"
    )
    assert len(set(looks)) == len(looks) >= 3
    browser.screenshot(tmp_path / "page.png")
    assert len(zlib.compress((tmp_path / "page.png").read_bytes())) > 10_000


def test_the_slider_draws_again(browser, show):
    show(small())
    for side, cell in ((16, [13, 16]), (512, [427, 512])):
        browser.evaluate(
            f"(e => {{ e.value = {side}; e.dispatchEvent(new Event('input')); }})(document.getElementById('side'))"
        )
        drawn(browser)
        assert text(browser, "side-out") == f"{side} px"
        assert browser.evaluate("gsd.grid.cell") == cell
        assert browser.evaluate("document.querySelector('#grid canvas').height") == side


def test_search_and_keys(browser, show):
    show(small())
    browser.press("/", "/")
    browser.call("Input.insertText", text="BEE")
    browser.until("document.querySelectorAll('#grid h3').length === 1")
    assert text(browser, "found") == "1 of 3 classes"
    browser.call("Input.insertText", text="zebra")
    browser.until("!document.getElementById('none').hidden")
    browser.evaluate("(e => { e.value = ''; e.dispatchEvent(new Event('input')); })(document.getElementById('search'))")
    browser.evaluate("document.getElementById('grid').focus()")
    assert browser.evaluate("document.querySelector('.cursor').getAttribute('aria-label')") == "image 1 class ant"
    browser.press("ArrowRight")
    assert browser.evaluate("document.querySelector('.cursor').getAttribute('aria-label')") == "image 4 class ant"
    browser.press("Enter", "\r")
    browser.until("document.getElementById('picture').dataset.done")
    assert browser.evaluate("document.getElementById('viewer').open")
    assert text(browser, "facts") == "image4classantGaussians1"
    browser.press("ArrowRight")
    browser.until("gsd.viewer.image === 7")
    browser.press("Escape")
    browser.until("!document.getElementById('viewer').open")


def test_what_is_found_and_what_the_cursor_is_at_are_not_behind_the_tools(browser, show):
    show(small())
    browser.evaluate("(e => { e.value = 300; e.dispatchEvent(new Event('input')); })(document.getElementById('side'))")
    browser.evaluate("document.getElementById('grid').focus()")
    browser.press("End")
    browser.until("scrollY > 1000")
    free = "document.querySelector('{}').getBoundingClientRect().top - document.getElementById('tools').offsetHeight"
    browser.evaluate(
        "(e => { e.value = 'ant'; e.dispatchEvent(new Event('input')); })(document.getElementById('search'))"
    )
    assert browser.evaluate(free.format("#grid")) == pytest.approx(0, abs=1)
    browser.press("PageDown")
    browser.press("Home")
    browser.until("document.querySelector('#grid h3') && document.querySelector('.cursor').style.top === '44px'")
    assert browser.evaluate(free.format("#grid h3")) >= -1


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_large_with_ellipses(browser, show, backend):
    show(small(), backend)
    drawn(browser)
    browser.evaluate("gsd.viewer.open(3)")
    browser.until("document.getElementById('picture').dataset.done === '3 427x512 1'")
    shape = "(e => [e.width, e.height])(document.getElementById('picture'))"
    assert browser.evaluate(shape) == [427, 512]
    inked = "document.getElementById('outline').getContext('2d').getImageData(0, 0, 400, 500).data.some((byte) => byte)"
    assert not browser.evaluate(inked)
    browser.press("e", "e")
    browser.until(inked)
    browser.press("+", "+")
    browser.until("document.getElementById('picture').dataset.done === '3 427x512 2'")
    browser.evaluate("(e => { e.value = 16; e.dispatchEvent(new Event('input')); })(document.getElementById('pixels'))")
    browser.until("document.getElementById('picture').dataset.done === '3 13x16 2'")
    assert browser.evaluate(shape) == [13, 16]
    move = "gsd.viewer.stage.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true, bubbles: true}))"
    start = browser.evaluate("gsd.viewer.view.x")
    browser.evaluate(move)
    assert browser.evaluate("gsd.viewer.view.x") == pytest.approx(start + 0.05)
    assert browser.evaluate("gsd.viewer.image") == 3
    browser.press("0", "0")
    browser.until("gsd.viewer.view.zoom === 1")
    assert not browser.evaluate("document.getElementById('error').textContent")


def test_what_is_too_heavy_for_webgl_is_drawn_all_the_same(browser, show):
    show(gsd([4001, 5], size=(32, 32)), "#webgl")
    browser.evaluate("gsd.viewer.open(0)")
    browser.until("document.getElementById('picture').dataset.done === '0 512x512 1'")
    drawn(browser)
    browser.press("e", "e")
    assert not browser.evaluate("document.getElementById('most').hidden")
    browser.press("e", "e")
    assert browser.evaluate("document.getElementById('most').hidden")
    assert browser.evaluate(
        "gsd.viewer.context.getImageData(0, 0, 512, 512).data.some((byte) => byte > 0 && byte < 255)"
    )


def test_what_takes_too_long_is_drawn_with_fewer_pixels_and_says_so(browser, show):
    wide = QuantizerSet(SET.means, Quantizer("log2", 10.0, 20.0, 6), SET.shear, SET.colors)
    show(gsdata.to_bytes(make_codes(0, [2000, 3], sets=(wide,)), level=1), "#canvas")
    for image, said in ((0, "512x512 (computed at 128x128) pixels"), (1, "512x512 pixels")):
        browser.evaluate(f"gsd.viewer.open({image})")
        browser.until(f"document.getElementById('picture').dataset.done === '{image} 512x512 1'")
        assert said in browser.evaluate("document.querySelector('#pixels').parentElement.textContent")


def scrolls(browser: Browser) -> None:
    """Scrolls through 10,000 images, and fails where that is not smooth."""
    browser.until("gsd.painter.first > 0")
    assert browser.evaluate("document.documentElement.scrollHeight") > 40_000
    found = browser.scroll()
    assert found["rows"] < 60  # those on the screen, no others
    # Time of the processor, which other work on the machine does not change much; then what someone would see, generously.
    assert found["work"] < 0.05
    assert sorted(found["frames"])[20] < 250, found
    assert max(found["tasks"], default=0) < 1000, found


def many() -> bytes:
    return gsd([8] * 10_000, labels=[i % 10 for i in range(10_000)], classes=list("abcdefghij"), size=(32, 32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_thousand_images_scroll(browser, show, backend):
    show(many(), backend)
    scrolls(browser)
    drawn(browser)


@pytest.mark.parametrize(
    ("module", "text", "replacement"),
    [
        ("grid.mjs", "const AHEAD = 300", "const AHEAD = 1e7"),  # makes all rows
        ("grid.mjs", "const wanted = new Set();", "const wanted = new Set(); for (let i = 0; i < 2e8; i++);"),
    ],
)
def test_what_does_not_scroll_is_noticed(browser, show, monkeypatch, module, text, replacement):
    source = pages._source
    assert source(module).count(text) == 1
    monkeypatch.setattr(
        pages, "_source", lambda name: source(name).replace(text, replacement) if name == module else source(name)
    )
    show(many())
    with pytest.raises(AssertionError):
        scrolls(browser)


def test_a_file_without_images_or_labels(browser, show):
    show(gsd([]))
    assert text(browser, "headline").startswith("0 images")
    show(gsd([3, 4], channels=2))
    drawn(browser)
    assert browser.evaluate("Array.from(document.querySelectorAll('#grid h3'), (e) => e.textContent)") == [
        "without a class2"
    ]


def test_damage_is_said_and_nothing_is_shown(browser, show):
    data = bytearray(small())
    data[20] ^= 1
    show(bytes(data))
    assert "offset" in text(browser, "error")
    assert not browser.evaluate("document.getElementById('grid').children.length")


def test_nothing_else_runs_and_nothing_is_sent(browser, show):
    show(small())
    tried = {
        "a script's text": "Object.assign(document.createElement('script'), { textContent: 'document.title = 1' })",
        "a script's address": "Object.assign(document.createElement('script'), { src: 'data:text/javascript,document.title=1' })",
        "HTML": "document.body.innerHTML = '<b>'",
        "a handler": "document.body.setAttribute('onclick', 'document.title = 1')",
        "a worker": "new Worker('data:text/javascript,1')",
        "another policy": "trustedTypes.createPolicy('other', {})",
        "a request": "await fetch('https://example.org/')",
        "a request of data": "await fetch('data:text/plain,x')",
    }
    for what, code in tried.items():
        run = f"(async () => {{ try {{ {code}; return 'ran'; }} catch (error) {{ return error.name; }} }})()"
        assert browser.evaluate(run) == "TypeError", what
    browser.evaluate("document.body.append(Object.assign(new Image(), { src: 'https://example.org/x.png' }))")
    browser.until("document.querySelector('img').complete")
    assert browser.evaluate("document.title") == "set.gsd"
    refused = [message for message in browser.messages if "Content Security Policy" in message]
    for what in ("https://example.org/'", "data:text/plain", "https://example.org/x.png"):
        assert any(what in message for message in refused), (what, refused)
    browser.messages.clear()


def test_soft_labels_are_told_by_their_largest_weights(browser, show):
    weights = np.zeros((2, 9))
    weights[0] = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    weights[1, 4] = 1
    names = ["\u202eodd", *"bcdefg", "שלום", "i"]
    show(gsd([3, 4], soft_labels=weights, classes=names))
    for image, expected in enumerate(["i 20 %, שלום 18 %, g 16 %, f 13 %, e 11 %", "e 100 %"]):
        browser.evaluate(f"gsd.viewer.open({image})")
        browser.until(f"document.getElementById('picture').dataset.done?.startsWith('{image} ')")
        told = browser.evaluate("document.querySelector('#facts dd:nth-of-type(2)').textContent")
        assert told.replace("\u2068", "").replace("\u2069", "") == expected
    browser.press("Escape")
    titles = browser.evaluate("Array.from(document.querySelectorAll('#grid h3 bdi'), (e) => e.textContent)")
    assert titles == ["e", "i"]


def test_a_lost_gpu_is_replaced(browser, show):
    show(small(), "#webgl")
    drawn(browser)
    expected = browser.evaluate("gsd.painter.pixels(3, 20, 16)")
    browser.evaluate("gsd.painter.gl.gl.getExtension('WEBGL_lose_context').loseContext()")
    browser.evaluate("gsd.viewer.open(3)")
    browser.until("document.getElementById('picture').dataset.done === '3 427x512 1'")
    assert browser.evaluate(
        "gsd.viewer.context.getImageData(0, 0, 427, 512).data.some((byte) => byte > 0 && byte < 255)"
    )
    assert text(browser, "backend") == BACKENDS["#canvas"]
    found = browser.evaluate("gsd.painter.pixels(3, 20, 16)")
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1
    drawn(browser)


def test_who_does_not_see_is_told(browser, show):
    show(small())
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    assert ("slider", "Size 64 px") in roles or ("slider", "Size") in roles
    assert ("searchbox", "Classes") in roles
    assert ("listbox", "Images; arrow keys move, Enter opens") in roles
    assert any(role in ("img", "image") and name.startswith("payload ") for role, name in roles)
    assert any(role == "heading" and name == "set.gsd" for role, name in roles)
    browser.evaluate("document.getElementById('grid').focus()")
    option = "(e => [e.id, e.getAttribute('aria-label'), e.getAttribute('aria-posinset'), e.getAttribute('aria-setsize')])(document.querySelector('.cursor'))"
    assert browser.evaluate(option) == ["image-1", "image 1 class ant", "1", "60"]
    browser.press("End")
    assert browser.evaluate(option) == ["image-59", f"image 59 class {NAMES[2]}", "60", "60"]
    assert browser.evaluate(
        "document.getElementById('grid').getAttribute('aria-activedescendant') === document.querySelector('.cursor').id"
    )
    browser.press("Enter", "\r")
    browser.until("document.getElementById('picture').dataset.done")
    assert browser.evaluate("document.activeElement.id") == "stage"
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')").startswith("image ")
    browser.press("Escape")
    browser.until("document.activeElement.id === 'grid'")


def test_narrow_and_dark(browser, show):
    show(small())
    browser.resize(390, 844, "dark")
    drawn(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 26)"
