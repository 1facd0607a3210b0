"""A headless Chromium, driven over a pipe by the DevTools protocol: for the page of ``gsd-inspect --html``, its tests, attack and benchmark."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

WATCH = """globalThis.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((task) => task.duration))).observe({ type: "longtask" });"""
SCROLL = """(async () => {
  const [frames, height] = [[], document.documentElement.scrollHeight];
  let [rows, last] = [0, performance.now()];
  longTasks.length = 0;
  for (let i = 0; i < %d; i++) {
    scrollTo(0, height * i / %d);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
    rows = Math.max(rows, document.querySelectorAll("#grid canvas").length);
  }
  return { frames, rows };
})()"""
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


NOTED = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")


class Browser:
    """One page. ``messages`` has what it logged, every error and dialog, ``requests`` every address that it asked for; the network is
    cut off. In the page, ``longTasks`` has the milliseconds of each task that took more than 50.

    Args:
        folder: where the browser keeps its files.
        options: further switches.
    """

    def __init__(self, folder: Path, *options: str, width: int = 1280, height: int = 900) -> None:
        assert PROGRAM is not None
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._number, self._rest = 0, b""
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pipe in (os.pipe(), os.pipe()) for end in pipe]
        (theirs_in, self._out, self._in, theirs_out) = ends
        # The pipe must be descriptors 3 and 4 of the browser.
        start = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        switches = ["--headless", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={folder}", *options]
        switches += ["--enable-unsafe-swiftshader", "--no-first-run", "--disable-dev-shm-usage", "--disable-extensions"]
        switches += ["--disable-background-networking", "--disable-component-update", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", start, "bash", PROGRAM, *switches],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        (target,) = (t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
            self._process.wait(20)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, *, seconds: float = 60, **params: Any) -> Any:
        """The answer to one command; raises where it is an error or takes too long."""
        number = self._send(method, params)
        end = time.monotonic() + seconds
        while True:
            answer = self._receive(end)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if answer.get("method") in NOTED:
                self.messages.append(json.dumps(answer["params"]))
            if answer.get("method") == "Page.javascriptDialogOpening":  # nothing goes on until it is closed
                self._send("Page.handleJavaScriptDialog", {"accept": False})
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])

    def processes(self) -> dict[int, float]:
        """Seconds that each process of the browser has worked, by its number."""
        session, self._session = self._session, ""  # asked of the browser, not of the page
        found = self.call("SystemInfo.getProcessInfo")["processInfo"]
        self._session = session
        return {process["id"]: process["cpuTime"] for process in found}

    def scroll(self, frames: int = 40) -> dict[str, Any]:
        """Scrolls through a page, as far in each frame: ``frames`` and ``tasks`` (those above 50) in milliseconds, ``work``, seconds of
        the processor for a frame in the page's thread, and the most rows of images that were there at once.
        """
        self.call("Performance.enable", timeDomain="threadTicks")
        before = self._worked()
        found: dict[str, Any] = self.evaluate(SCROLL % (frames, frames))
        return found | {"work": (self._worked() - before) / frames, "tasks": self.evaluate("longTasks")}

    def _worked(self) -> float:
        metrics = self.call("Performance.getMetrics")["metrics"]
        return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser is gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, path: Path, fragment: str = "", seconds: float = 60) -> None:
        """Open a file from disk and wait until the page shows it, or says why not."""
        self.call("Page.navigate", url="about:blank", seconds=seconds)
        self.call("Page.navigate", url=path.absolute().as_uri() + fragment, seconds=seconds)
        self.until("globalThis.gsd || document.getElementById('error')?.hidden === false", seconds)

    def evaluate(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression of JavaScript; of a promise, what it resolves to."""
        result = self.call(
            "Runtime.evaluate", seconds=seconds, expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})", seconds):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            time.sleep(0.02)

    def press(self, key: str, text: str = "") -> None:
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
