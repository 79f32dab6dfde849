"""Sphinx's settings of the site that `make site` builds from this repository's Markdown.

The source directory is the repository's root, so links between pages work on the site as they do in the repository.
Every warning is an error: a link to a missing page, heading or file fails the build. `versions.py` builds the site of
several versions, and passes them to this file.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from retrain import __version__

project = "retrain"
author = "The retrain maintainers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser"]
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/**.md"]
include_patterns += [f"{folder}/README.md" for folder in ("charts/retrain", "retrain/recipe", "k8s/examples/kserve")]
# Otherwise Sphinx would search .venv and its 20,000 folders for pages.
exclude_patterns = [".*", "build", "dist"]
# Levels of headings that links may name, by GitHub's anchors.
myst_heading_anchors = 4

html_theme = "furo"
templates_path = ["templates"]
html_additional_pages = {"index": "redirect.html"}  # redirects from the site's root to root_doc
html_title = f"retrain {__version__}"
html_show_sourcelink = False

if "POLYVERSION_DATA" in os.environ:
    from sphinx_polyversion.api import load

    load(globals())
    parts = ("brand", "search", "scroll-start", "navigation")
    html_sidebars = {"**": [*(f"sidebar/{part}.html" for part in parts), "versions.html", "sidebar/scroll-end.html"]}
