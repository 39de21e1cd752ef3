"""The page in a browser: every control, by pointer and by keys, in both widths and both schemes."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no browser: apt-get install chromium, and the page is tested"
)
# Milliseconds.
LONG = 60_000
WIDTHS = {"wide": (1440, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served) -> Iterator[Any]:
    """Open the page with these settings in its address; what goes wrong in it fails the test."""
    wrong: list[str] = []
    contexts = []

    def visit(
        settings: str = "subject=pair&num=50&calls=4",
        width: str = "wide",
        scheme: str = "light",
        url: str = served.url,
        drawn: bool = True,
    ) -> Any:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        context = browser.new_context(
            viewport=size, color_scheme=scheme, reduced_motion="reduce", accept_downloads=True
        )
        context.set_default_timeout(LONG)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None
        )
        page.goto(f"{url}#{settings}")
        if drawn:
            ready(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def ready(page: Any) -> None:
    """Until what was asked for is drawn."""
    page.wait_for_selector("#save-npz:not([disabled])", timeout=LONG)


def wait(page: Any, what: str) -> None:
    """Until an expression is true. (Playwright's own waiting evaluates text, which the page's policy forbids.)"""
    for _ in range(LONG // 50):
        if page.evaluate(what):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never so: {what}")


def redrawn(page: Any, act: Any) -> dict[str, Any]:
    """Do something that draws anew; returns the settings that were sent."""
    page.evaluate("""() => {
        window.asked = [];
        window.plain ??= WebSocket.prototype.send;
        WebSocket.prototype.send = function (text) {
            window.asked.push(JSON.parse(text));
            return window.plain.call(this, text);
        };
    }""")
    act()
    wait(page, "window.asked.some((m) => m.type === 'start')")
    page.wait_for_timeout(250)
    ready(page)
    return page.evaluate("window.asked.filter((m) => m.type === 'start').at(-1).settings")


def pixels(page: Any, selector: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(page.locator(selector).screenshot()))
    return np.asarray(picture.convert("RGB")).astype(int)


def colours(page: Any, selector: str = "#plane") -> int:
    return len(np.unique(pixels(page, selector).reshape(-1, 3), axis=0))


def test_the_page_draws_by_itself(visit):
    page = visit("")
    assert page.locator("h1").inner_text() == "pushforward"
    assert colours(page) > 500
    wait(page, "document.querySelectorAll('#chart circle').length >= 7")
    assert "Mean ln p of the samples" in page.locator("#facts").inner_text()


SELECTS = [
    ("path", "vp"), ("solver", "dpm++2m"), ("solver", "euler-maruyama"), ("solver", "dopri5"), ("grid", "log-snr"),
    ("label", "1"), ("show", "score"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SELECTS)
def test_a_choice_is_drawn_and_kept_in_the_address(visit, name, value):
    page = visit()
    sent = redrawn(page, lambda: page.locator(f"[name={name}]").select_option(value))
    assert str(sent[name]) == value
    assert f"{name}={value.replace('+', '%2B')}" in page.url
    page.reload()
    ready(page)
    assert page.locator(f"[name={name}]").input_value() == value


@pytest.mark.parametrize(
    ("name", "value"), [("calls", "12"), ("num", "200"), ("mix", "0.4"), ("seed", "7"), ("second", "9")]
)  # fmt: skip
def test_a_number_is_drawn_and_kept_in_the_address(visit, name, value):
    page = visit()
    sent = redrawn(page, lambda: page.locator(f"[name={name}]").fill(value))
    assert sent[name] == float(value)
    page.reload()
    ready(page)
    assert page.locator(f"[name={name}]").input_value() == value


def test_guidance_acts_once_a_class_is_chosen(visit):
    page = visit()
    assert page.locator("[name=guidance]").is_disabled()
    redrawn(page, lambda: page.locator("[name=label]").select_option("0"))
    assert redrawn(page, lambda: page.locator("[name=guidance]").fill("3.5"))["guidance"] == 3.5


def test_a_slider_moves_by_keys(visit):
    page = visit()
    page.locator("[name=calls]").focus()
    sent = redrawn(page, lambda: [page.keyboard.press("ArrowRight") for _ in range(3)])
    assert sent["calls"] == 7


def test_every_control_is_reached_by_tab_and_shows_it(visit):
    page = visit("subject=run:marks&num=2&calls=2")
    reached = set()
    page.locator("h1").click()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("((e) => e.id || e.name || e.className)(document.activeElement)"))
        shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        if page.evaluate("document.activeElement !== document.body"):
            assert shown != "none"
    wanted = {
        "subject",
        "solver",
        "grid",
        "calls",
        "num",
        "label",
        "seed",
        "second",
        "mix",
        "draw",
        "tile",
        "save-png",
        "save-npz",
        "copy",
    }
    assert wanted <= reached


def test_time_is_scrubbed_and_played(visit):
    page = visit("subject=8gaussians&num=400&calls=20")
    at_the_end = pixels(page, "#plane")
    page.locator("#time").fill("0")
    page.wait_for_timeout(100)
    assert page.locator("#time-out").inner_text() == "t = 0.00"
    assert (pixels(page, "#plane") != at_the_end).any(2).mean() > 0.05
    page.locator("#speed").select_option("2")
    page.get_by_role("button", name="Play").click()
    wait(page, "document.getElementById('time-out').textContent === 't = 1.00'")
    page.wait_for_timeout(100)
    assert (pixels(page, "#plane") != at_the_end).any(2).mean() < 0.001
    page.locator("#time").fill("0")
    page.locator("h1").click()
    page.keyboard.press("Space")  # from anywhere
    wait(page, "Number(document.getElementById('time').value) > 0.2")
    page.keyboard.press("Space")
    stopped = page.locator("#time").input_value()
    page.wait_for_timeout(200)
    assert page.locator("#time").input_value() == stopped


def test_layers_come_and_go(visit):
    page = visit("subject=8gaussians&num=400&calls=20")
    for name in ("Particles", "Trajectories", "Field", "Density"):
        before = pixels(page, "#plane")
        page.get_by_label(name, exact=True).uncheck()
        page.wait_for_timeout(80)
        assert (pixels(page, "#plane") != before).any(2).mean() > 0.002, name
    assert len(np.unique(pixels(page, "#plane")[40:-40, 40:-40].reshape(-1, 3), axis=0)) < 6
    assert page.url.endswith("layers=")


def test_curves_are_kept_and_cleared_and_told_in_a_table(visit):
    page = visit("subject=gaussian&num=50&calls=4")
    wait(page, "document.querySelectorAll('#chart circle').length === 11")
    page.get_by_role("button", name="Keep this curve").click()
    redrawn(page, lambda: page.locator("[name=solver]").select_option("euler"))
    wait(page, "document.querySelectorAll('#chart polyline').length === 2")
    page.get_by_text("As a table").click()
    table = page.locator("#chart-table").inner_text()
    assert "heun" in table
    assert "euler" in table
    page.get_by_role("button", name="Clear").first.click()
    assert page.locator("#chart polyline").count() == 1


def test_gaussians_are_placed_by_pointer_and_by_numbers(visit):
    page = visit("subject=own&num=50&calls=4")
    rows = page.locator("#own tbody tr")
    assert rows.count() == 3
    box = page.locator("#plane").bounding_box()
    sent = redrawn(
        page,
        lambda: page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.1),
    )
    assert len(sent["components"]) == 4
    assert (sent["components"][3]["x"], sent["components"][3]["y"]) == pytest.approx(
        (3.0, 4.8), abs=0.1
    )
    start = box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.1

    def drag() -> None:
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(start[0] - box["width"] / 4, start[1], steps=5)
        page.mouse.up()

    assert redrawn(page, drag)["components"][3]["x"] == pytest.approx(0, abs=0.1)

    def type_it() -> None:
        page.get_by_label("spread of Gaussian 2").fill("0.9")
        page.keyboard.press("Enter")

    assert redrawn(page, type_it)["components"][1]["std"] == 0.9
    sent = redrawn(page, lambda: page.get_by_label("Remove Gaussian 1").click())
    assert len(sent["components"]) == 3
    page.reload()
    ready(page)
    assert page.locator("#own tbody tr").count() == 3
    assert page.get_by_label("spread of Gaussian 1").input_value() == "0.9"


def test_pictures_appear_and_have_names(visit):
    page = visit("subject=run:marks&calls=6&num=6")
    assert page.locator(".tile").count() == 6
    assert page.locator(".tile").nth(4).get_attribute("aria-label") == "Sample 5, class b"
    assert colours(page, ".tile >> nth=0") > 20

    def act() -> None:
        page.locator("[name=label]").select_option("2")
        page.locator("#draw").click()

    assert redrawn(page, act)["label"] == 2
    assert page.locator(".tile").nth(4).get_attribute("aria-label") == "Sample 5, class c"


def test_a_prompt_and_what_to_move_away_from(visit):
    page = visit("subject=run:scenes&calls=2&num=2")

    def act() -> None:
        page.locator("[name=prompt]").fill("a blue square, zebra")
        page.locator("[name=negative]").fill("a red circle")
        page.locator("[name=guidance]").fill("4")
        page.locator("#draw").click()

    sent = redrawn(page, act)
    assert (sent["prompt"], sent["negative"], sent["guidance"]) == (
        "a blue square, zebra",
        "a red circle",
        4,
    )
    assert "never saw: zebra" in page.locator("#work").inner_text()
    page.reload()
    ready(page)
    assert page.locator("[name=prompt]").input_value() == "a blue square, zebra"


def test_a_file_is_uploaded_masked_and_painted(visit, tmp_path):
    page = visit("subject=run:scenes&calls=3&num=2")
    Image.new("RGB", (40, 40), (200, 30, 60)).save(tmp_path / "red.png")
    page.get_by_text("Change a picture").click()
    page.locator("#picture-file").set_input_files(tmp_path / "red.png")
    page.wait_for_selector("#brush", state="visible")
    page.locator("#brush").scroll_into_view_if_needed()
    box = page.locator("#brush").bounding_box()
    assert (pixels(page, "#brush")[20, 20] == (200, 30, 60)).all()
    page.locator("#brush-size").fill("5")
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.3, steps=4)
    page.mouse.up()
    assert page.locator("#mask-note").inner_text() == "Only what is painted changes."

    def act() -> None:
        page.locator("[name=strength]").fill("1")
        page.locator("#draw").click()

    sent = redrawn(page, act)
    assert len(sent["picture"]) == 16 * 16 * 3 * 4 // 3
    assert sent["mask"]
    # Outside the mask the picture is what was uploaded.
    shown = page.evaluate(
        "[...document.querySelector('.tile canvas').getContext('2d').getImageData(0, 0, 16, 16).data]"
    )
    shown = np.array(shown).reshape(16, 16, 4)[..., :3]
    kept = (shown == (200, 30, 60)).all(2)
    assert kept[10:].all()
    assert not kept[4, 5:8].any()
    page.locator("#mask-clear").click()
    assert "No mask" in page.locator("#mask-note").inner_text()
    page.get_by_role("button", name="Remove").click()
    assert "picture" not in redrawn(page, lambda: page.locator("#draw").click())


@pytest.mark.slow
def test_a_hint_is_uploaded_and_its_strength_chosen(visit, steered, tmp_path):
    stripes = np.zeros((8, 8), np.uint8)
    stripes[2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    # Without a hint nothing is drawn, and the page asks for one.
    page = visit("subject=run:edges&calls=2&num=2", url=steered.url, drawn=False)
    page.wait_for_selector("#work:text('choose a hint')")
    page.locator("#control-file").set_input_files(tmp_path / "stripes.png")
    ready(page)
    shown = page.evaluate(
        "[...document.getElementById('control-canvas').getContext('2d').getImageData(0, 0, 8, 8).data]"
    )
    assert (np.array(shown).reshape(8, 8, 4)[..., :3] == stripes[..., None]).all()
    assert page.locator("#control-canvas").is_visible()

    def act() -> None:
        page.locator("[name=control_strength]").fill("0")
        page.locator("#draw").click()

    sent = redrawn(page, act)
    hint = np.frombuffer(base64.b64decode(sent["control"]), "u1").reshape(8, 8)
    assert (hint == stripes).all()
    assert sent["control_strength"] == 0


def test_a_mask_is_painted_by_keys(visit):
    page = visit("subject=run:marks&calls=2&num=2")
    page.locator(".tile").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".tile").nth(1).get_attribute("aria-pressed") == "true"
    page.get_by_text("Change a picture").click()
    page.get_by_role("button", name="Take the selected sample").click()
    page.locator("#brush").focus()
    for key in ("ArrowLeft", "ArrowUp", "Space", "Shift+ArrowRight", "Space"):
        page.keyboard.press(key)
    assert "Only what is painted" in page.locator("#mask-note").inner_text()
    sent = redrawn(page, lambda: page.locator("#draw").click())
    assert sent["mask"]
    page.locator("#brush-erase").check()
    page.locator("#brush").focus()
    for key in ("Space", "Shift+ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert "No mask" in page.locator("#mask-note").inner_text()


def test_what_is_no_picture_is_said(visit, tmp_path):
    page = visit("subject=run:marks&calls=2&num=2")
    (tmp_path / "text.png").write_text("hello")
    page.get_by_text("Change a picture").click()
    page.locator("#picture-file").set_input_files(tmp_path / "text.png")
    page.wait_for_selector("#message:not([hidden])")
    assert "cannot read that file" in page.locator("#message").inner_text()


def test_cancel_and_escape_end_a_drawing(visit):
    page = visit()
    for act in (lambda: page.locator("#cancel").click(), lambda: page.keyboard.press("Escape")):
        page.evaluate(
            "location.hash = 'subject=spirals&num=4000&calls=200&solver=rk4&seed=' + Date.now() % 1e6"
        )
        page.wait_for_selector("#cancel:not([disabled])")
        act()
        wait(page, "document.getElementById('work').textContent === 'cancelled'")
        assert page.locator("#cancel").is_disabled()


def test_a_reload_in_the_middle_goes_on_with_the_same_settings(visit, served):
    page = visit()
    page.evaluate("location.hash = 'subject=spirals&num=1000&calls=90&seed=5'")
    wait(page, "document.getElementById('work').textContent.includes('drawing')")
    page.reload()
    wait(page, "document.querySelector('[name=seed]').value === '5'")
    assert page.locator("[name=subject]").input_value() == "spirals"
    assert page.locator("[name=calls]").input_value() == "90"
    ready(page)
    assert colours(page) > 500


def test_the_place_in_the_queue_is_shown(visit):
    first, second = visit(), visit()
    first.evaluate("location.hash = 'subject=spirals&num=4000&calls=200&solver=rk4'")
    wait(first, "document.getElementById('work').textContent.includes('drawing')")
    second.locator("#draw").click()
    wait(second, "document.getElementById('work').textContent === 'number 1 of 1 in the queue'")
    first.locator("#cancel").click()
    ready(second)


def test_files_hold_samples_and_settings(visit, tmp_path):
    page = visit("subject=pair&num=100&calls=8&seed=3&label=1")
    with page.expect_download() as waited:
        page.locator("#save-npz").click()
    waited.value.save_as(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found["samples"].shape == (100, 2)
        assert (found["label"] == 1).all()
        about = json.loads(str(found["settings"]))
    assert (about["subject"], about["seed"], about["calls"]) == ("pair", 3, 8)
    assert zipfile.is_zipfile(tmp_path / "x.npz")
    with page.expect_download() as waited:
        page.locator("#save-png").click()
    waited.value.save_as(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert json.loads(picture.text["pushforward"])["seed"] == 3


def test_the_link_is_copied(visit):
    page = visit("subject=moons&num=50&calls=4")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    wait(page, "document.getElementById('work').textContent === 'the link is copied'")
    assert "subject=moons" in page.evaluate("navigator.clipboard.readText()")


def test_an_address_that_makes_no_sense_still_draws(visit):
    page = visit(
        "subject=nowhere&calls=1e9&seed=-3&guidance=x&num=abc&own=1_2_~~&mix=7&layers=<b>&zzz=1"
    )
    assert page.locator("[name=calls]").input_value() == "100"
    assert page.locator("[name=subject]").input_value() == "8gaussians"


def test_the_connection_comes_back(visit):
    page = visit()
    page.evaluate("window.gone = 0")
    page.context.set_offline(True)
    page.evaluate("0")
    page.context.set_offline(False)
    redrawn(page, lambda: page.locator("[name=seed]").fill("8"))


PLACES = {
    "a law": "subject=8gaussians&num=200&calls=8&label=1&guidance=2",
    "own Gaussians": "subject=own&num=50&calls=4",
    "pictures": "subject=run:marks&calls=2&num=6",
    "prompts": "subject=run:scenes&calls=2&num=2",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing_and_nothing_sticks_out(visit, place, width, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    page = visit(PLACES[place], width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    if page.locator("#use-sample").is_visible():
        page.locator(".tile").first.click()
        page.locator("#use-sample").click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[width][0]


def test_files_of_the_page_are_few_and_its_own(visit, served):
    page = visit()
    asked = page.evaluate("performance.getEntriesByType('resource').map((r) => r.name)")
    assert asked
    assert all(name.startswith(served.url) for name in asked)
