"""Whether a built site is whole: each of its links leads somewhere in it, and no page loads anything from another host.

python docs/check.py build/site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """What a page links to, loads, and which anchors it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loads.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(given.get("href", ""))


def problems(site: Path) -> list[str]:
    """What is wrong with the site, a sentence each."""
    pages = {page: read(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    found = []
    for page, links in pages.items():
        name = page.relative_to(site)
        found += [f"{name} loads {url} from another host" for url in links.loads if urlsplit(url).netloc]
        for url in {*links.links, *links.loads}:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                if not str(target.relative_to(site.resolve())).startswith("live"):  # which is there once the page is built
                    found.append(f"{name} links to {url}, which is not there")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
                and "live" not in target.parts
            ):
                found.append(f"{name} links to {url}, whose anchor is not there")
    return sorted(found)


def read(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or f"{sys.argv[1]}: every link leads somewhere, nothing comes from other hosts")
    sys.exit(bool(wrong))
