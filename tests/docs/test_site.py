"""The site: what its sources name exists, and (slow) it builds, without a network, without warnings."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import reduce
from pathlib import Path
from types import ModuleType

import pytest
from docpages import ROOT
from sitepages import DOCS, cells, in_toctrees, pages, prose, text_of
from test_names import anchors

import pushforward as pf

PAGES = pages()
WITH_CELLS = [page for page in PAGES if cells(page)]
CHROMIUM = shutil.which("chromium")
# Looked at in a browser: the landing page, a how-to, a page of the reference, one with equations.
SEEN = ("index", "howto/likelihood", "api/paths", "api/solvers", "imported", "equations")


def test_every_page_is_in_exactly_one_toctree():
    named = Counter(in_toctrees())
    assert set(named) == set(PAGES) - {"index"}
    assert [page for page, count in named.items() if count != 1] == []


@pytest.mark.parametrize("page", WITH_CELLS)
def test_every_cell_parses_and_names_what_there_is(page):
    for line, metadata, code in cells(page):
        if code.startswith("%%bash\n"):
            subprocess.run(["bash", "-n"], input=code.partition("\n")[2], text=True, check=True)
            continue
        # Lines that the notebook takes out of the Python around them.
        python = re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.M)
        ast.parse(python, filename=f"{page}.md:{line}")
        for name in set(re.findall(r"\bpf((?:\.[A-Za-z_]\w*)+)", python)):
            reduce(getattr, name[1:].split("."), pf)
        # In the book a section has one figure, and its heading describes it (docs/_ext/site_assets.py).
        draws = re.search(r"\b(imshow|scatter|plot|pcolormesh|display)\(", python)
        if draws and not page.startswith("book/"):
            assert "alt:" in metadata, f"{page}.md:{line} draws, and does not say what"


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_and_picture_exists(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (DOCS / page).parent / file if file else DOCS / f"{page}.md"
        if not place.exists() or (anchor and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert not broken


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(text_of(page) for page in PAGES if page.startswith("api/"))
    homes = " ".join(re.findall(r"```\{public\} (.*)", reference)).split()
    modules = re.findall(r"```\{members\} pushforward\.(\S+)", reference)
    shown = {name for home in homes for name in pf._NAMES[home]}
    for module in set(modules) & set(pf._MODULES):
        shown |= set(getattr(getattr(pf, module), "__all__", ()))
    assert set(pf._HOME) - shown == set()
    assert {m for m, home in pf._MODULES.items() if m not in modules and home not in homes} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built from nothing: no page of an earlier build, no output of an earlier run of a cell."""
    pytest.importorskip("sphinx", reason="the site needs sphinx: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", out / "doctrees",
            "-D", f"nb_execution_cache_path={out / 'cells'}", DOCS, out / "html",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return out / "html"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_public_name_has_an_entry_that_links_can_lead_to(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as file:
        entries = InventoryFile.load(file, "", lambda base, uri: uri)
    shown = {name for kind, names in entries.items() if kind.startswith("py:") for name in names}
    lacking = {
        name
        for name, home in pf._HOME.items()
        if not {f"pushforward.{name}", f"pushforward.{home.split('.')[0]}.{name}"} & shown
    }
    for module in pf._MODULES:
        found = getattr(pf, module)
        lacking |= {
            f"{module}.{name}"
            for name in getattr(found, "__all__", ())
            if not isinstance(getattr(found, name), ModuleType)
            and f"pushforward.{module}.{name}" not in shown
        }
    assert lacking == set()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_site_needs_nothing_from_elsewhere_and_lacks_nothing(site):
    for page in PAGES:
        html = (site / f"{page}.html").read_text()
        for file in re.findall(r'<(?:script|link|img)[^>]*?\s(?:src|href)="([^"#]+)"', html):
            assert not re.match(r"[a-z]+:|//", file), f"{page} loads {file}"
            there = ((site / page).parent / file.split("?")[0]).resolve()
            assert there.is_file() or there.suffix == ".html", f"{page} lacks {file}"
        for picture in re.findall(r"<img[^>]*>", html):
            alt = re.search(r'alt="([^"]*)"', picture)
            assert alt, f"{page}: {picture}"
            assert not alt[1].startswith(("_images", "../")), f"{page}: {picture}"
    assert (site / "_static" / "mathjax" / "tex-chtml.js").is_file()
    for page in WITH_CELLS:
        assert 'class="cell_output' in (site / f"{page}.html").read_text(), page


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_without_network_pages_fit_and_can_be_read_by_all(site, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        for page in SEEN:
            tab, wrong = context.new_page(), []
            tab.on("requestfailed", lambda request, wrong=wrong: wrong.append(request.url))
            tab.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
            tab.goto(f"file://{site}/{page}.html", wait_until="load")
            if page == "equations":
                tab.wait_for_selector("mjx-container", state="attached")
                assert tab.locator("mjx-merror").count() == 0
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert tab.evaluate(wide) <= 0, f"{page} scrolls sideways"
            assert wrong == []
            found = axe.Axe().run(tab).response["violations"]
            serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], f"{page}: {serious}"
            tab.close()
        browser.close()


def test_the_results_of_an_imported_model_are_on_its_page():
    assert "```{result} imported" in text_of("imported")
    assert (ROOT / "benchmarks" / "results" / "imported.md").is_file()
