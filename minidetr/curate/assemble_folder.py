"""What a tool exported as a folder -> a data set, or several: train/, val/ and test/ where the tool made such parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidetr.curate.assemble import Assembled, assemble
from minidetr.curate.layouts import Layout, Part, layout_of
from minidetr.curate.split import link_or_copy
from minidetr.data.foreign import READINGS
from minidetr.data.index import read_panoptic_json
from minidetr.data.names import Finder, png_names
from minidetr.errors import InputError
from minidetr.panoptic import read_json, write_json
from minidetr.predict import output_folder


@dataclass
class AssembledFolder:
    """The layout that was found, and what came of each of its parts: a report, or for panoptic data lines to read."""

    layout: Layout
    parts: dict[str, Assembled | list[str]]

    def summary(self) -> str:
        """Which tool it was, then each part."""
        lines = [f"an export of {self.layout.tool}"]
        if self.layout.left_out:
            lines.append(f"ATTENTION: left out, without photos or PNGs of its own: {', '.join(self.layout.left_out)}")
        for name, made in self.parts.items():
            text = made.summary() if isinstance(made, Assembled) else "\n".join(made)
            lines += [*([f"{name}:"] if name else []), text]
        return "\n".join(lines)


def assemble_folder(
    folder: str | Path,
    out: str | Path,
    order: str = "smaller",
    stuff: Sequence[str] | None = None,
    under: str | Path | None = None,
    overwrite: bool = False,
    skip_missing: bool = False,
    crowds: str = "as-crowds",
) -> AssembledFolder:
    """Find out which tool wrote FOLDER and assemble it into OUT, or its parts into OUT/train, OUT/val and OUT/test.

    Known are CVAT's, Roboflow's and Label Studio's COCO exports, COCO's own, and Cityscapes' and ADE20k's panoptic conversions (see
    `layouts`). The options are those of `assemble`; panoptic data, which are one segment a pixel already, are linked as they are,
    their JSON in the plain form. Raises InputError.
    """
    out, layout = Path(out), layout_of(folder)
    names = [part.name for part in layout.parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        files = ", ".join(str(part.json_file) for part in layout.parts if part.name == twice)
        raise InputError(f"{folder} has several files for {twice or 'one data set'} ({files}): assemble them one by one")
    parents = unused_parents(layout.parts) if layout.tool == "Roboflow" else set()

    def made_of(part: Part, place: Path, overwrite: bool) -> Assembled | list[str]:
        if part.pngs is not None:
            if (order, stuff, under, crowds) != ("smaller", None, None, "as-crowds"):
                options = "--order, --stuff, --under and --crowds"
                raise InputError(f"{part.json_file} is panoptic, a segment a pixel already: leave {options} out")
            return link_panoptic(part, place, overwrite, skip_missing)
        return assemble(part.json_file, part.photos, place, order, stuff, under, overwrite, skip_missing, crowds, parents)

    if names == [""]:
        return AssembledFolder(layout, {"": made_of(layout.parts[0], out, overwrite)})
    inputs = [path for part in layout.parts for path in part.inputs] + [Path(path) for path in (under,) if path is not None]
    with output_folder(out, names, overwrite, inputs) as whole:  # all parts, or none
        return AssembledFolder(layout, {part.name: made_of(part, whole / part.name, False) for part in layout.parts})


def unused_parents(parts: Sequence[Part]) -> set[int]:
    """The ids of categories that Roboflow puts above all others: the supercategory of others, in no annotation of any part."""
    used: set[Any] = set()
    categories: dict[int, dict] = {}
    for part in parts:
        content = read_json(part.json_file)
        entries = content.get("annotations")
        used |= {entry.get("category_id") for entry in entries if isinstance(entry, dict)} if isinstance(entries, list) else set()
        listed = content.get("categories")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and type(entry.get("id")) is int:
                categories[entry["id"]] = entry
    above = {entry.get("supercategory") for entry in categories.values()}
    return {
        number
        for number, entry in categories.items()
        if number not in used and entry.get("supercategory") in (None, "none", "") and entry.get("name") in above
    }


class RenamingFinder(Finder):
    """A `Finder` that also looks for the name with one part of it exchanged."""

    def __init__(self, folder: Path, renamed: tuple[str, str] | None) -> None:
        super().__init__(folder)
        self.renamed = renamed or ("", "")

    def find(self, name: str) -> str | None:
        """As `Finder.find`."""
        return super().find(name) or (super().find(name.replace(*self.renamed)) if self.renamed[0] in name else None)


def link_panoptic(part: Part, out: Path, overwrite: bool, skip_missing: bool) -> list[str]:
    """Panoptic data as OUT/panoptic.json, OUT/images and OUT/panoptic, whole or not at all: files are linked, or copied.

    Returns lines to read. Raises InputError.
    """
    assert part.pngs is not None
    photos, pngs = RenamingFinder(part.photos, part.renamed), Finder(part.pngs)
    categories, names, annotations, remarks = read_panoptic_json(part.json_file, photos, pngs)
    absent = [i for i, name in names.items() if not (part.photos / name).is_file()]
    absent += [i for i in names if i not in set(absent) and not (part.pngs / annotations[i]["file_name"]).is_file()]
    if absent and not skip_missing:
        more = f" (and {len(absent) - 1} more of {len(names)})" if len(absent) > 1 else ""
        raise InputError(
            f"the photo or the PNG of {names[absent[0]]}{more} is not below {part.photos} or {part.pngs}, but {part.json_file} "
            "names it: add it, or leave such images out with --skip-missing"
        )
    kept = {i: name for i, name in names.items() if i not in set(absent)}
    if not kept:
        raise InputError(f"{part.json_file}: no image is left to assemble")
    images, entries, linked = [], [], True
    content = {image.get("id"): image for image in read_json(part.json_file)["images"] if isinstance(image, dict)}
    with output_folder(out, ("panoptic.json", "panoptic", "images"), overwrite, part.inputs) as made:
        for (image_id, name), png in zip(kept.items(), png_names(list(kept.values())), strict=True):
            linked &= link_or_copy(part.photos / name, made / "images" / name)
            linked &= link_or_copy(part.pngs / annotations[image_id]["file_name"], made / "panoptic" / png)
            size = {key: content[image_id][key] for key in ("width", "height") if key in content.get(image_id, {})}
            images.append({"id": image_id, "file_name": name, **size})
            entries.append(annotations[image_id] | {"file_name": png})
        listed = [category.to_json() for category in categories]
        write_json(made / "panoptic.json", {"images": images, "annotations": entries, "categories": listed})
    lines = [f"{len(images)} images, {sum(len(entry['segments_info']) for entry in entries)} segments, {len(categories)} classes"]
    lines.append("files are hard links: one changed in place changes in both folders" if linked else "files are copies")
    lines += [f"{len(places):6d} x {READINGS[kind]}" for kind, places in remarks.items() if kind in READINGS and places]
    return lines + [f"{len(absent):6d} x image without photo or PNG: left out"] * bool(absent)
