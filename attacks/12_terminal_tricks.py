"""Text that moves a terminal's cursor, retitles its window or turns lines around, in everything that gsd-inspect prints."""

import json
import tempfile
from pathlib import Path

from gsdata import forging
from victim import command, good_file, report, said_badly

TRICK = "\x1b]0;owned\x07\x1b[2J\r\n\u202eevil\u2066\x9b31m\x00\x7f"
good = good_file(
    labels=[0, 1, 1],
    classes=(TRICK, "b"),
    metadata={TRICK: [TRICK, {TRICK: TRICK}]},
    provenance={TRICK: TRICK, "source": {"name": TRICK}},
)
header, sections = forging.take_apart(good)
files = {
    "names, metadata and provenance": good,
    "a required feature": forging.put_together(header | {"required": [TRICK]}, sections),
    "an unknown key": forging.put_together(header | {TRICK: 1}, sections),
    "a layout of labels": forging.put_together(header | {"labels": TRICK}, sections),
    "a key of the recipe": forging.put_together(header | {"recipe": header["recipe"] | {TRICK: 1}}, sections),
    "the name of a section": forging.put_together(
        header | {"sections": [*header["sections"], "test." + TRICK]}, sections
    ),
}
failures = []
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "hostile.gsd"
    for name, data in files.items():
        path.write_bytes(data)
        done = command("inspect", path)
        failures += said_badly(f"gsd-inspect of tricks in {name}", done, [0 if data is good else 1])
        bad = sorted({c for c in done.stdout + done.stderr if not c.isprintable() and c != "\n"})
        failures += [f"{name}: prints {bad}"] if bad or "owned" not in done.stdout + done.stderr else []
    path.write_bytes(good)
    said = command("inspect", path, "--json")
    names = json.loads(said.stdout)["class_names"]
    failures += [] if names == [TRICK, "b"] and "\x1b" not in said.stdout else ["--json"]
report(failures)
