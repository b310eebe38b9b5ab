"""Where measured tables are kept: benchmarks/RESULTS.md, each between markers of its own, so that a program can write it anew."""

from __future__ import annotations

from pathlib import Path

from minidetr.panoptic import whole_file

RESULTS = Path(__file__).parent / "RESULTS.md"


def write_section(path: Path, start: str, end: str, text: str) -> None:
    """Put `text`, between the markers `start` and `end`, in their place in `path`, or at its end; the rest of the file stays."""
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    after = rest.partition(end)[2].lstrip("\n")
    parts = [part for part in (before.rstrip("\n"), f"{start}\n\n{text}\n\n{end}", after.rstrip("\n")) if part]
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
