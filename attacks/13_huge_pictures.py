"""A picture of 4 billion pixels in a few hundred bytes: the format allows it, and rendering it takes 12 GB."""

import tempfile
from pathlib import Path

from victim import command, good_file, open_all, report, said_badly

SPACE = 3 << 30
SIDES = (65536, 32768)

files = {f"{side} pixels a side": good_file(1, size=(side, side), channels=3, labels=[0]) for side in SIDES}
failures = open_all(files, expect_error=False)
with tempfile.TemporaryDirectory() as folder:
    for side, data in zip(SIDES, files.values(), strict=True):
        path = Path(folder) / "hostile.gsd"
        path.write_bytes(data)
        for kind, out in (("npz", "x.npz"), ("png", "folder")):
            done = command("export", path, "--to", kind, "-o", Path(folder) / out, "--quiet", space=SPACE)
            failures += said_badly(f"gsd-export --to {kind} of {side} x {side}", done, [1, 2])
            failures += ["half an export"] if (Path(folder) / out).exists() else []
        done = command("inspect", path, "--preview", Path(folder) / "x.png", space=SPACE)
        (Path(folder) / "x.png").unlink(missing_ok=True)
        failures += said_badly(f"gsd-inspect --preview of {side} x {side}", done, [0])
report(failures)
