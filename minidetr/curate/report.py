"""What a check found, as a table to read, as JSON, and image by image."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from minidetr.curate.findings import KINDS, LEVELS


@dataclass
class Report:
    """What was found. `found` holds for each kind its places, (image file or "", where in words), in the order of the file."""

    path: Path
    images: int = 0
    segments: int = 0
    void: float | None = None  # share of all pixels that belong to no segment
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # name -> {"images", "segments"}
    found: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    unchecked: list[str] = field(default_factory=list)  # what was not looked at, and why

    def kinds(self, *levels: int) -> list[str]:
        """The kinds found (of these levels only), what matters most first: by level, then by how often."""
        chosen = [kind for kind in self.found if not levels or KINDS[kind][0] in levels]
        return sorted(chosen, key=lambda kind: (KINDS[kind][0], -len(self.found[kind]), list(KINDS).index(kind)))

    def table(self, examples: int = 3) -> str:
        """The findings for reading: count, what it is, whether `--fix` mends it, and a few places of each."""
        void = "" if self.void is None else f", {100 * self.void:.1f} % of the pixels are void"
        lines = [f"{self.path}: {self.images} images, {self.segments} segments, {len(self.classes)} classes{void}", *self.unchecked]
        level = None
        for kind in self.kinds():
            this_level, title, mend = KINDS[kind]
            if this_level != level:
                lines += ["", LEVELS[this_level]]
                level = this_level
            places = self.found[kind]
            lines.append(f"{len(places):>7}  {title}" + (f" [--fix: {mend}]" if mend else ""))
            lines += [f"{'':9}- {where}" for _, where in places[:examples]]
            lines += [f"{'':9}- and {len(places) - examples} more"] * (len(places) > examples)
        return "\n".join(lines if self.found else [*lines, "nothing wrong or odd found"])

    def to_json(self) -> dict:
        """Everything, with every place of every finding."""
        findings = []
        for kind in self.kinds():
            level, title, mend = KINDS[kind]
            places = [{"image": image, "where": where} for image, where in self.found[kind]]
            entry = {"kind": kind, "level": LEVELS[level], "what": title, "count": len(places), "fix": mend or None}
            findings.append(entry | {"places": places})
        summary = {"path": str(self.path), "images": self.images, "segments": self.segments, "void": self.void}
        return summary | {"unchecked": self.unchecked, "classes": self.classes, "findings": findings}

    def trouble(self) -> dict[str, list[str]]:
        """Image file -> the kinds found in it, the worst first; images with none are left out."""
        by_image: dict[str, list[str]] = defaultdict(list)
        for kind in self.kinds():
            for image in dict.fromkeys(image for image, _ in self.found[kind]):
                if image:
                    by_image[image].append(kind)
        return dict(by_image)
