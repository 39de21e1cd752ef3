"""The documentation's site: sphinx, with pages of MyST whose cells run when it is built. `make docs` builds it."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = ROOT / "src"
sys.path[:0] = [str(HERE / "_ext"), str(SOURCE)]

from pushforward.core.version import __version__  # noqa: E402

project = "pushforward"
author = "the authors of pushforward"
copyright = "the authors of pushforward, Apache-2.0"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_copybutton",
    "docstrings",
    "names",
    "repository",
    "site_assets",
]
exclude_patterns = ["_ext", "_static", "images"]

# Pages. Headings have the anchors that GitHub gives them.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
myst_dmath_allow_labels = False

# Cells run in a kernel with this tree's library, the commands of this environment, and one thread.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MATPLOTLIBRC"] = str(HERE / "_static" / "matplotlibrc")
# Commands print plain lines: the kernel says FORCE_COLOR, by which rich takes it for a terminal.
os.environ |= {"TTY_COMPATIBLE": "0", "TERM": "dumb", "COLUMNS": "88", "NO_COLOR": "1"}
os.environ["HF_HUB_OFFLINE"] = os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"


def library_digest() -> str:
    """Of all that cells import from this tree. What they print is kept as long as it stays the same."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.rglob("*.py")):
        digest.update(str(file.relative_to(SOURCE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-cells" / library_digest())
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_render_image_options = {"class": "figure"}
nb_mime_priority_overrides = [("*", "text/html", None)]

# Reference.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# Appearance. Nothing on a page comes from elsewhere.
html_theme = "furo"
html_title = "pushforward"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1c5d99",
        "color-brand-content": "#1c5d99",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ec5ff",
        "color-brand-content": "#8ec5ff",
    },
}
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}
copybutton_exclude = ".linenos, .gp, .go"
