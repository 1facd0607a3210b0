"""The page of ``gsd-inspect --html`` for a CIFAR-10 IPC 10 set: how much larger than the file, how soon it shows images, how it scrolls.

The set is distilled first, in a few minutes, unless ``--file`` names one. Each round opens the page in a new headless Chromium; times count
from the start of the navigation. Without a GPU the page draws by itself on the CPU; ``#webgl`` makes it use WebGL2 all the same, in software.
Needs Chromium. The load of the machine and the processors' time stand beside every time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gsdata
from environment import hardware, versions

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from browser import PROGRAM, Browser

DISTILL = "dm --data cifar10 --ipc 10 --iterations 20"
MOST_MORE, MOST_SECONDS = 3_000_000, 1.0
BACKENDS = {"as it is opened": "", "WebGL2": "#webgl"}
DRAWN = """new Promise((done) => {
  const look = () => {
    const { painter } = globalThis.gsd ?? {};
    if (painter?.first && !painter.jobs.length && !painter.drawing) done([painter.first, performance.now()]);
    else setTimeout(look, 5);
  };
  look();
})"""


def command(module: str, *words: object) -> None:
    """A command of gsdata; ends where it fails."""
    subprocess.run(
        [sys.executable, "-m", f"gsdata_tools.{module}", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


def opened(page: Path, fragment: str, folder: Path) -> dict[str, Any]:
    """One round: a new browser, the page, and a scroll from its top to its end."""
    with Browser(folder, width=1280, height=800) as browser:
        time.sleep(1)  # it has things of its own to do when it starts
        before, load = browser.processes(), os.getloadavg()[0]
        browser.call("Page.navigate", url=page.absolute().as_uri() + fragment)
        first, screen = browser.evaluate(DRAWN)
        after = browser.processes()
        found = {
            "first_image_seconds": round(first / 1000, 3),
            "first_screen_seconds": round(screen / 1000, 3),
            "processor_seconds": round(sum(spent - before.get(number, 0) for number, spent in after.items()), 3),
            "load_average": load,
            "drawn": browser.evaluate("document.getElementById('backend').textContent"),
        }
        scroll = browser.scroll()
        return found | {
            "scroll_frame_milliseconds": round(statistics.median(scroll["frames"]), 1),
            "scroll_longest_frame_milliseconds": round(max(scroll["frames"]), 1),
            "scroll_longest_task_milliseconds": round(max(scroll["tasks"], default=0)),
            "scroll_processor_milliseconds_a_frame": round(1000 * scroll["work"], 2),
        }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help=f"the set (default: make one by gsd-distill {DISTILL})")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/page.json"))
    arguments = parser.parse_args()
    if PROGRAM is None:
        parser.exit(2, "page.py: there is no Chromium\n")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in BACKENDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = arguments.file or folder / "c10.gsd"
        if arguments.file is None:
            command("distill", *DISTILL.split(), "-o", path)
        page = folder / "page.html"
        command("inspecting", path, "--html", page)
        with gsdata.open(path) as file:
            of_file = {"images": file.images, "gaussians": file.gaussian_count, "bytes": path.stat().st_size}
            of_file |= {"provenance": file.provenance, "sha256": file.sha256}
        for number in range(arguments.rounds):
            for backend, fragment in BACKENDS.items():
                runs[backend].append(opened(page, fragment, folder / f"{number}{fragment}"))
                print(json.dumps({backend: runs[backend][-1]}), flush=True)
        page_bytes = page.stat().st_size
    medians = {
        backend: {key: statistics.median(run[key] for run in rows) for key in rows[0] if key != "drawn"}
        for backend, rows in runs.items()
    }
    more = page_bytes - of_file["bytes"]
    result = {
        "command": "python benchmarks/page.py" + (" --file c10.gsd" if arguments.file else ""),
        "distilled_by": f"gsd-distill {DISTILL}",
        "file": of_file,
        "page_bytes": page_bytes,
        "page_bytes_more_than_file": more,
        "medians": medians,
        "runs": runs,
        "met": {
            f"the page is less than {MOST_MORE:,} bytes larger than the file": more < MOST_MORE,
            f"the first image is there in less than {MOST_SECONDS:g} s": medians["as it is opened"][
                "first_image_seconds"
            ]
            < MOST_SECONDS,
        },
        "chromium": subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "versions": versions(),
        "hardware": hardware(),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"more": more, "medians": medians, "met": result["met"]}, indent=2))
    if not all(result["met"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
