"""Write constraints.txt, the newest versions that the tests have passed with: those of this environment. `make constraints`

Upper bounds, not pins: what somebody has already, on Colab for example, stays as it is unless it is newer than anything tested,
and an older Python may take older releases. Torch and what is built against it (torchvision, CUDA's libraries, numpy) are left
out, so that an installation with these constraints never replaces the torch that is there.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = re.compile(r"minidetr|torch|torchvision|numpy|triton|nvidia-.*|cuda-.*|setuptools|pip")
EXTRAS = ("test", "notebooks", "colab", "bench")


def brought(name: str, extras: tuple[str, ...], seen: dict[str, set[str]]) -> None:
    """Add to `seen` the installed package `name` and all that it and its `extras` need. PackageNotFoundError if it is not here."""
    known = seen.get(name, set())
    if known >= {"", *extras} or LEFT_OUT.fullmatch(name) and name != "minidetr":
        return
    needed = requires(name) or []
    seen[name] = known | {"", *extras}
    for text in needed:
        requirement = Requirement(text)
        wanted = [extra for extra in ("", *extras) if requirement.marker is None or requirement.marker.evaluate({"extra": extra})]
        if wanted:
            try:
                brought(re.sub(r"[-_.]+", "-", requirement.name).lower(), tuple(sorted(requirement.extras)), seen)
            except PackageNotFoundError:  # of an extra that is not installed here
                continue


def main() -> None:
    """Write the file."""
    seen: dict[str, set[str]] = {}
    brought("minidetr", EXTRAS, seen)
    listed = [name for name in sorted(seen) if not LEFT_OUT.fullmatch(name)]
    lines = [f"{name}<={version(name).partition('+')[0]}" for name in listed]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    head = f"# Written by `make constraints` after the tests passed on Python {python}; what for says .ci/constraints.py\n"
    (ROOT / "constraints.txt").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")


if __name__ == "__main__":
    main()
