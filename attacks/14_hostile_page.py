"""A page of gsd-inspect --html that runs, loads or hides what a file says, or that keeps the browser busy.

Without Chromium only the page's text is looked at: nothing in it may come from the file but its base64, its name and its hash.
"""

import base64
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from gsdata import forging, testing
from gsdata.quantize import Quantizer, QuantizerSet
from gsdata_tools import inspecting
from victim import good_file, report, said_badly

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser import PROGRAM, Browser

RUN = "document.title='ran'"
TEXTS = (
    f"</script><script>{RUN}</script>",
    "<!--<script>",
    "]]></style></title></textarea></noscript><base href=https://example.org/>",
    f'"><img src=x onerror="{RUN}"><svg onload={RUN}>',
    f"javascript:{RUN}",
    f"' onfocus={RUN} autofocus x='",
    f"@SCRIPT@@FILE@ ${{{RUN}}} {{{{constructor.constructor(`{RUN}`)()}}}} <%= 7 * 7 %>",
    "&lt;b&gt;&#60;b&#62;",
    "__proto__",
    "constructor",
)
HIDING = "\u202egnp.\u2066\u2028\u2029\ufeff\u00ad\x00\x1b[2J\x85\U000e0041"
MARKS = "a" + "\u0301" * 300_000  # a browser takes minutes to lay that out
# Quantisers at the ends of what FORMAT.md allows, and Gaussians that cover every pixel.
EXTREME = QuantizerSet(
    Quantizer("uniform", -(2.0**24), 2.0**24, 8),
    Quantizer("log2", -60.0, 64.0, 8),
    Quantizer("uniform", -(2.0**24), 2.0**24, 8),
    Quantizer("uniform", -(2.0**24), 2.0**24, 8),
)
HEAVY = QuantizerSet(testing.SET.means, Quantizer("log2", 10.0, 24.0, 8), testing.SET.shear, testing.SET.colors)
POLICY = "Content-Security-Policy"
SINKS = re.compile(
    r"(inner|outer)HTML|insertAdjacent|document\.write|\beval\b|new Function|\bimport\(|\bfetch\(|XMLHttpRequest|WebSocket"
    r"|sendBeacon|\.(src|href)\b|setAttribute\(\W*on"
)
MOST_SECONDS = 30.0  # until a page is there, on a slow machine that does other things, too
MOST_TASK = 5.0  # seconds that a page may not answer


def drawn(counts: list[int], **options: Any) -> bytes:
    """A file of 64 x 64 pixels with so many Gaussians in each image."""
    codes = testing.make_codes(0, counts, size=(64, 64), **options)
    return gsdata.to_bytes(codes, level=1)


def many_images() -> bytes:
    """4.2 million images without a Gaussian in 9 kB."""
    header, _ = forging.take_apart(good_file(1, labels=[0], class_count=10))
    raw = [bytes(2 << 16), bytes(1 << 16), b""]
    packed = [forging.frame(raw[0]), forging.frame(raw[1]), b""]
    header["chunks"] = {"gaussians": [0] * 64, "images": [1 << 16] * 64, "quantizers": [0] * 64}
    entries = [[p, int(p < 2), 0, chunk, packed[p], len(raw[p])] for chunk in range(64) for p in range(3)]
    return forging.put_together(header, entries)


def many_weights() -> bytes:
    """64 MiB of soft labels in 4 kB: 1,024 images of 65,535 classes."""
    weights = np.zeros((1, 65535))
    weights[0, :9] = 1
    header, _ = forging.take_apart(gsdata.to_bytes(testing.make_codes(0, [0], channels=1), soft_labels=weights))
    raw = [bytes(128), b"\x09" * 64 + bytes(64), bytes(range(9)) * 64 + bytes(9 * 64), b"\xff" * 9 * 64, b""]
    chunks = {"gaussians": 0, "images": 64, "labels": 9 * 64, "quantizers": 0}
    header["chunks"] = {key: [value] * 16 for key, value in chunks.items()}
    packed = [forging.frame(part) for part in raw[:4]] + [b""]
    entries = [[p, int(p < 4), 0, chunk, packed[p], len(raw[p])] for chunk in range(16) for p in range(5)]
    return forging.put_together(header, entries)


def texts_everywhere() -> bytes:
    """The texts in every place that may hold one."""
    values = {f"{number}{text}": [text, {text: text}] for number, text in enumerate((*TEXTS, HIDING))}
    return good_file(
        len(TEXTS) + 1,
        labels=range(len(TEXTS) + 1),
        classes=(*TEXTS, HIDING),
        metadata=values,
        provenance={"source": {text: text for text in (*TEXTS, HIDING)}},
        recipe=gsdata.Recipe(model=TEXTS[0], augment=TEXTS[3], zca={text: text for text in TEXTS}),
        optional_sections={"script.alert": TEXTS[0].encode(), "test.img": TEXTS[3].encode()},
    )


def deep() -> dict[str, object]:
    """A tree as deep as the header allows, wide at each level, with long keys."""
    tree: dict[str, object] = {}
    for level in range(6):
        tree = {"k" * 100_000 + str(level): tree} | {f"{level}.{number}": "v" * 1500 for number in range(150)}
    return tree


FILES = {
    "texts": texts_everywhere(),
    "texts that are long": good_file(labels=[0, 1, 1], classes=(MARKS, "b" * 1_500_000), metadata={MARKS: MARKS}),
    "65,535 classes": gsdata.to_bytes(
        testing.make_codes(0, [1] * 65535, channels=1),
        labels=np.arange(65535),
        classes=[f"class {number} <b>" for number in range(65535)],
    ),
    "a tree of metadata": good_file(metadata=deep(), provenance={"numbers": list(range(200_000))}),
    "a huge picture": good_file(1, size=(65536, 65536), channels=3, labels=[0]),
    "thin pictures": good_file(300, size=(1, 65536)),
    "extreme values": drawn([50] * 40, sets=(EXTREME,), background=(2.0**24, -(2.0**24), 0.0)),
    "262,140 Gaussians, each on every pixel": drawn([65535] * 4, sets=(HEAVY,), channels=1),
    "4.2 million images": many_images(),
    "64 MiB of soft labels": many_weights(),
}
REFUSED = {
    "the name of an optional section": forging.put_together(
        (good := forging.take_apart(good_file()))[0] | {"sections": [*good[0]["sections"], "test.<img>"]}, good[1]
    ),
    "more than a page holds": gsdata.to_bytes(
        testing.make_codes(0, [1]),
        level=0,
        optional_sections={f"test.s{number}": bytes(1 << 24) for number in range(9)},
    ),
}
NAME = f"""<img src=x onerror="{RUN}">'&@FILE@\u202e.gsd"""


class Page(HTMLParser):
    """Elements and attributes of a page, and its texts by the id or name of the element around them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: dict[str, str] = {}
        self.place = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, attrs))
        self.place = str(dict(attrs).get("id", tag))

    def handle_endtag(self, tag: str) -> None:
        """What follows belongs to nothing."""
        self.place = ""

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts[self.place] = self.texts.get(self.place, "") + data

    def handle_comment(self, data: str) -> None:
        """Note a comment: the page has none."""
        self.elements.append(("comment", [("text", data)]))


def inspect(path: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """``gsd-inspect PATH --html OUT``, in this process: there are many files."""
    words = [str(path), "--html", str(out), "--force"]
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        code = inspecting.main(words)
    return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())


def hashed(text: str) -> str:
    """A source of a security policy that allows this text only."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def wrong_rules(page: Page) -> list[str]:
    """What is wrong with a page whatever its file is: a policy that is not strict, a script that makes markup or loads something."""
    policies = [dict(rest).get("content") or "" for _, rest in page.elements if ("http-equiv", POLICY) in rest]
    rules = [dict(rule.split(" ", 1) for rule in policy.split("; ")) for policy in policies]
    allowed = {"script-src": hashed(page.texts["code"]), "style-src": hashed(page.texts["style"])}
    strict = {"require-trusted-types-for": "'script'"} | dict.fromkeys(
        ("default-src", "base-uri", "form-action"), "'none'"
    )
    expected = strict | allowed | {"worker-src": "blob:", "trusted-types": "worker"}
    failures = [] if rules == [expected] else [f"the security policy is {policies}"]
    return [*failures, *(f"the script has {match[0]}" for match in SINKS.finditer(page.texts["code"]))]


def wrong_text(page: Page, data: bytes, plain: Page) -> list[str]:
    """What in a page comes from the file and is neither its name nor its bytes; ``plain`` is the page of a harmless file."""
    failures = [] if page.elements == plain.elements else ["other elements or attributes"]
    texts = {place for place, text in page.texts.items() if text != plain.texts.get(place)}
    failures += [f"another text in {place}" for place in texts - {"title", "bdi", "sha", "file"}]
    same = base64.b64decode(page.texts["file"]) == data and page.texts["sha"] == hashlib.sha256(data).hexdigest()
    return failures if same else [*failures, "the page has another file"]


SHOW = """(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const set = async (id, value) => { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event("input")); await frame(); };
  document.getElementById("about").open = true;
  await frame();
  for (const side of [16, 512, 64]) await set("side", side);
  for (const text of ["script", "a", ""]) await set("search", text);
  for (let i = 0; i < 8; i++) { scrollTo(0, document.documentElement.scrollHeight * i / 8); await frame(); }
  gsd.viewer.open(0);
  document.getElementById("ellipses").click();
  await frame();
  gsd.viewer.zoom(4);
  await frame();
})()"""
SEEN = """(() => {
  const bad = [...document.querySelectorAll("*")].filter((e) => /^(img|svg|base|iframe|object|embed|a|form|audio|video|template)$/i.test(e.localName)
    || [...e.attributes].some(({ name }) => /^on|^(src|href|srcdoc|action)$/.test(name)));
  const text = document.getElementById("tables").textContent + document.getElementById("grid").textContent + document.getElementById("facts").textContent;
  return { bad: bad.map((e) => e.outerHTML.slice(0, 80)), scripts: document.scripts.length, title: document.title, text,
    hidden: text.match(/[\\p{Cc}\\p{Zl}\\p{Zp}\\u202a-\\u202e\\u2066\\u00ad\\ufeff\\u{e0041}]/u)?.[0], longest: Math.max(0, ...longTasks) / 1000 };
})()"""


def wrong_in_browser(browser: Browser, path: Path, texts: bool) -> list[str]:
    """What a page does that it must not; ``texts``: the texts must be there to be read.

    Raises:
        AssertionError: the browser does not answer.
    """
    browser.messages.clear()
    browser.requests.clear()
    start = time.monotonic()
    browser.open(path, seconds=MOST_SECONDS)
    shown = time.monotonic() - start
    if browser.evaluate("document.getElementById('error').textContent"):
        return ["the page does not show the file"]
    title = browser.evaluate("document.querySelector('h1').textContent")
    browser.evaluate(SHOW, MOST_SECONDS)
    seen = browser.evaluate(SEEN, MOST_SECONDS)
    print(f"    in Chromium: {shown:.1f} s, then at most {seen['longest']:.2f} s without an answer")
    failures = [f"an element: {element}" for element in seen["bad"]]
    failures += [f"a message: {message[:200]}" for message in browser.messages if '"level": "warning"' not in message]
    asked = [
        url for url in browser.requests if url not in (path.as_uri(), "about:blank") and not url.startswith("blob:")
    ]
    failures += [f"a request: {url[:200]}" for url in asked]
    failures += ["something ran"] if (seen["title"], seen["scripts"]) != (title, 1) else []
    failures += [f"{seen['longest']:.1f} s without an answer"] if seen["longest"] > MOST_TASK else []
    failures += [f"a hidden {ord(seen['hidden'][0]):x}"] if seen.get("hidden") else []
    return failures + [f"not shown: {text}" for text in TEXTS if texts and text not in seen["text"]]


failures, pages, plain = [], {}, None
with tempfile.TemporaryDirectory() as folder:
    for name, data in {"a harmless file": good_file(), **FILES}.items():
        path = Path(folder) / (NAME if data in FILES.values() else "plain.gsd")
        out = Path(folder) / f"{len(pages)}.html"
        path.write_bytes(data)
        wrong = said_badly(f"gsd-inspect --html of {name}", inspect(path, out), [0])
        if not wrong:
            pages[name] = out
            page = Page(out.read_text(encoding="utf-8"))
            plain = plain or page
            wrong = wrong_text(page, data, plain) + (wrong_rules(page) if page is plain else [])
        failures += [f"{name}: {what}" for what in wrong]
    for name, data in REFUSED.items():
        path.write_bytes(data)
        failures += said_badly(f"gsd-inspect --html of {name}", inspect(path, out), [1, 2])
    if PROGRAM is None:
        print("there is no Chromium: no page is opened")
    else:
        with Browser(Path(folder) / "profile") as browser:
            for name, out in pages.items():
                print(f"the page of {name}")
                try:
                    failures += [f"{name}: {what}" for what in wrong_in_browser(browser, out, name == "texts")]
                except AssertionError as error:
                    failures.append(f"{name}: the page hangs: {str(error)[:200]}")
                    break
report(failures)
