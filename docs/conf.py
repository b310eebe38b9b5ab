"""The site: `make site`. Lessons are shown as they are committed, nothing is executed, and nothing comes from other hosts."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

project, author = "minidetr", "minidetr contributors"
copyright = author  # noqa: A001  # Sphinx's name
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "minidetr"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "show_toc_level": 2, "home_page_in_toc": True}
mathjax_path = "mathjax/tex-chtml.js"
nb_execution_mode = "off"
nb_mime_priority_overrides = [
    ("html", mime, rank) for rank, mime in enumerate(("image/png", "text/markdown", "text/html", "text/plain"))
]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "myst.xref_missing", "misc.highlighting_failure"]

REPOSITORY = re.search(r'Repository = "(.*?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
STAGES = {  # of the live page, by the lesson that teaches it
    **{"00": "argmax", "01": "image", "02": "backbone", "03": "encoder", "04": "boxes"},
    **{"05": "boxes", "06": "heatmaps", "07": "masks", "09": "argmax"},
}
BADGE = re.compile(r"\[!\[Open in Colab\]\(.*?\)\]\((.*?)\)")
OUTSIDE = re.compile(r"\]\(\.\./((?!images/)[^)]*)\)")  # links out of the lessons' folder go to the repository


def gather(_: object) -> None:
    """Put lessons, measurements and the change log where Sphinx finds them, with links that hold on the site."""
    lessons = HERE / "lessons"
    shutil.rmtree(lessons, ignore_errors=True)
    lessons.mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8")
        stage = STAGES.get(notebook.name[:2])
        touch = f" · <a href='../live/index.html#stage={stage}'>touch this stage on the live page</a>" if stage else ""
        text = BADGE.sub(rf"[Open in Colab](\1){touch}", text)
        text = re.sub(r"\]\(#([^)]+)\)", lambda match: match[0].lower(), text)  # Jupyter keeps capitals in anchors
        text = OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", text)
        (lessons / notebook.name).write_text(text, encoding="utf-8")
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    (HERE / "measured.md").write_text(
        re.sub(r"\]\((?!http|#)([^)]*\.(?:py|json|md)[^)]*)\)", rf"]({REPOSITORY}/blob/main/benchmarks/\1)", measured), "utf-8"
    )
    for picture in (ROOT / "benchmarks").glob("*.png"):
        shutil.copy(picture, HERE)
    mathjax, static = ROOT / "page" / "node_modules" / "mathjax" / "es5", HERE / "_static" / "mathjax"
    shutil.copytree(mathjax / "output" / "chtml" / "fonts", static / "output" / "chtml" / "fonts", dirs_exist_ok=True)
    shutil.copy(mathjax / "tex-chtml.js", static)


def on_the_site(_: object, __: str, source: list[str]) -> None:
    """The guides' links, which are those of the repository, as they are on the site."""
    source[0] = source[0].replace("](../notebooks/", "](lessons/").replace("](../benchmarks/RESULTS.md)", "](measured.md)")


def bring_the_page(app: object, error: Exception | None) -> None:
    """Copy the live page into the built site, where it is built."""
    built = ROOT / "build" / "live"
    if error is not None:
        return
    shutil.copy(ROOT / "images" / "way.gif", Path(app.outdir) / "_images")  # type: ignore[attr-defined]
    if built.is_dir():
        shutil.copytree(built, Path(app.outdir) / "live", dirs_exist_ok=True)  # type: ignore[attr-defined]


def setup(app: object) -> None:
    """Sphinx's entry."""
    app.connect("source-read", on_the_site)  # type: ignore[attr-defined]
    app.connect("builder-inited", gather)  # type: ignore[attr-defined]
    app.connect("build-finished", bring_the_page)  # type: ignore[attr-defined]
