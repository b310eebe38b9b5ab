"""The check of a built site finds what is broken, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def problems(site: Path) -> list[str]:
    spec = importlib.util.spec_from_file_location("check", ROOT / "docs" / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problems(site.resolve())


def test_links_anchors_and_other_hosts(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text('<a href="sub/a.html#here">a</a><a href="live/">page</a><a href="https://x.org">x</a>')
    (tmp_path / "sub" / "a.html").write_text('<h1 id="here"></h1><a href="../">up</a>')
    assert problems(tmp_path) == []
    (tmp_path / "bad.html").write_text(
        '<a href="gone.html"></a><a href="index.html#nowhere"></a>'
        '<img src="https://x.org/y.png"><script src="//x.org/z.js"></script>'
    )
    assert problems(tmp_path) == [
        "bad.html links to gone.html, which is not there",
        "bad.html links to index.html#nowhere, whose anchor is not there",
        "bad.html loads //x.org/z.js from another host",
        "bad.html loads https://x.org/y.png from another host",
    ]
