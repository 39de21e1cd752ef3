"""`pushforward serve`: how soon there is a picture, and whether the page answers while it draws."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import Row

# A drawing that takes long, beside which the page is used.
LONG = "subject=spirals&num=4000&calls=100&solver=rk4&path=vp"
CLICKS = 40


def page() -> list[Row]:
    """Milliseconds, in Chromium (headless, its GPU in software), server, worker and browser on one machine.

    First picture: from starting the command to the first frame that is painted in the plane. Clicks: on a box beside
    the picture until the next picture is painted (event timing of the browser, in steps of 8), and on "Cancel" until
    the page says that the worker has stopped, while 4000 points are drawn by RK4 on two spirals. Requests: of the
    server's status.
    """
    from playwright.sync_api import sync_playwright

    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pushforward", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    try:
        with sync_playwright() as p:
            browser = p.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            tab = browser.new_page()
            tab.goto(found[0])
            tab.wait_for_selector("#time-out:not(:text('t = 1.00'))", timeout=60_000)
            first = time.perf_counter() - began
            tab.evaluate(WATCH)
            tab.wait_for_timeout(8000)
            idle = [click(tab) for _ in range(CLICKS // 2)]
            clicks, requests, cancels = while_drawing(tab)
            browser.close()
    finally:
        process.terminate()
        process.wait()
    return [
        {"what": "first picture", "median ms": 1000 * first, "largest ms": None, "times": 1},
        *(
            {"what": what, "median ms": statistics.median(ms), "largest ms": max(ms), "times": len(ms)}
            for what, ms in (
                ("click on a box, nothing drawn", idle),
                ("click on a box, while drawing", clicks), ("request of the status, while drawing", requests),
                ("click on Cancel until the worker has stopped", cancels),
            )
        ),
    ]  # fmt: skip


def click(tab: Any) -> float:
    """Milliseconds from a click of the pointer to the next picture, by the browser's event timing; 16 at least."""
    where = tab.locator("[data-layer=f]").bounding_box()
    tab.mouse.click(where["x"] + 5, where["y"] + 5)
    return max(tab.evaluate(CLICK), default=16.0)


def while_drawing(tab: Any) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of clicks, requests and cancels while a sample is drawn."""
    clicks, requests, cancels = [], [], []
    for k in range(CLICKS):
        if k % 8 == 0:
            if k:
                cancels.append(tab.evaluate(CANCEL))
            tab.evaluate(f"location.hash = '{LONG}&seed={k}'")
            tab.wait_for_selector("#work:text('drawing')", timeout=60_000)
        clicks.append(click(tab))
        requests.append(tab.evaluate(REQUEST))
    return clicks, requests, cancels


WATCH = """() => {
    window.seen = [];
    new PerformanceObserver((list) => window.seen.push(...list.getEntries().filter((e) => e.name === "click")))
        .observe({ type: "event", durationThreshold: 16 });
}"""
CLICK = """async () => {
    await new Promise((done) => setTimeout(done, 250));
    return window.seen.splice(0).map((e) => e.duration);
}"""
REQUEST = """async () => {
    const began = performance.now();
    await (await fetch("/api/status", { cache: "no-store" })).json();
    return performance.now() - began;
}"""
CANCEL = """async () => {
    const work = document.getElementById("work"), began = performance.now();
    document.getElementById("cancel").click();
    while (work.textContent !== "cancelled") await new Promise((done) => setTimeout(done, 1));
    return performance.now() - began;
}"""
