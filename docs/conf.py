"""How Sphinx builds the docs: `make docs`. Markdown by MyST; the parts of from_code.py are made while a page is read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from from_code import filled

from sdvae_ray.version import VERSION

project, release, language = "sdvae_ray", VERSION, "en"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = f"sdvae_ray {VERSION}"
html_copy_source = html_show_copyright = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
smartquotes = False  # -- is an option


def setup(app: object) -> None:
    """Fill the marks of every page as it is read."""

    def fill(app: object, page: str, source: list[str]) -> None:
        source[0] = filled(source[0], page)

    app.connect("source-read", fill)  # type: ignore[attr-defined]
