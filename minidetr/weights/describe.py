"""What a weights file does not hold, from what lies beside it: the model's sizes, and what its classes are called."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidetr.data.index import read_category, read_value
from minidetr.errors import InputError, InputWarning
from minidetr.panoptic import Category, read_json
from minidetr.presets import PUBLISHED, Preset
from minidetr.presets import preset as preset_of
from minidetr.weights.published import COCO_CLASSES, coco_categories, nameless
from minidetr.weights.transformers import labels_of_config, preset_of_config, preset_of_sizes

Categories = str | Path | Sequence[Category]  # a JSON in COCO's format, or "coco" for COCO's own; or the categories themselves


def described_preset(path: Path, preset: str | None, arguments: dict[str, Any], otherwise: str | None) -> Preset:
    """The sizes of the model in a file that does not hold them.

    The first that says them counts: `preset`; a published model's name at the start of the file's; the `arguments` that the
    training code wrote into the file; a config.json of `transformers` beside it; `otherwise`, said in a warning. Raises InputError.
    """
    if said := preset or name_of_file(path):
        return preset_of(said)
    if "hidden_dim" in arguments:
        return preset_of_arguments(arguments, path)
    if path.with_name("config.json").is_file():
        return preset_of_config(path.with_name("config.json"))
    if otherwise is None:
        raise InputError(
            f"{path} does not say which model it is: put its config.json beside it, if transformers wrote it, "
            f"or give preset=, one of {', '.join(PUBLISHED)}"
        )
    sentence = f"{path} does not say which model it is: taken for {otherwise}; give --preset for another"
    warnings.warn(sentence, InputWarning, stacklevel=2)
    return preset_of(otherwise)


def name_of_file(path: Path) -> str | None:
    """The published model that a file's name says it is: the longest known name it starts with."""
    return max((name for name in PUBLISHED if path.name.startswith(name)), key=len, default=None)


def preset_of_arguments(arguments: dict[str, Any], path: Path) -> Preset:
    """The preset that the published training code's arguments describe. Raises InputError."""
    names = {
        "width": "hidden_dim",
        "heads": "nheads",
        "feedforward": "dim_feedforward",
        "encoder_layers": "enc_layers",
        "decoder_layers": "dec_layers",
    }
    try:
        sizes = {ours: arguments[theirs] for ours, theirs in names.items()}
        return preset_of_sizes(str(arguments["backbone"]), bool(arguments.get("dilation", False)), sizes)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: its 'args' are not those of a DETR ({error} is missing or wrong): give preset=, one of {', '.join(PUBLISHED)}"
        ) from None


def described_categories(path: Path, name: str, num_classes: int, categories: Categories | None) -> list[Category]:
    """The categories of a model with `num_classes` outputs; `name` is what the user called it.

    The first that says them counts: `categories`; the `id2label` of a config.json of `transformers` beside the file; a published
    name, whose classes are COCO's. Else they are nameless, and where COCO's models have as many outputs a warning says so: most
    people who train the published code on classes of their own leave that number as it is. Raises InputError.
    """
    if categories is not None:
        return given_categories(categories, num_classes, path)
    config = path.with_name("config.json")
    labels = labels_of_config(config, num_classes) if config.is_file() else None
    if labels is not None:
        return labels
    if is_published(path, name):
        return coco_categories(num_classes)
    if num_classes in COCO_CLASSES:
        sentence = (
            f"{path} has {num_classes} classes, as COCO's models have, but does not say which: they are nameless here; "
            'categories= (--categories) takes a JSON that names them, or "coco"'
        )
        warnings.warn(sentence, InputWarning, stacklevel=2)
    return nameless(num_classes)


def is_published(path: Path, name: str) -> bool:
    """Whether a file is a published one by its name: `detr-r50[-HASH].pth`, or `detr-resnet-50` of `transformers` on the hub."""
    file = re.fullmatch(r"(.+?)(-[0-9a-f]{8})?", path.stem)
    if name in PUBLISHED or file and file[1] in PUBLISHED:
        return True
    folder = name.removeprefix("facebook/") if name.startswith("facebook/") else path.parent.name
    return folder.startswith("detr-resnet-") and folder.replace("resnet-", "r") in PUBLISHED


def given_categories(categories: Categories, num_classes: int, path: Path) -> list[Category]:
    """What the user says the classes are, in the order of their ids; classes that they leave out are nameless."""
    if categories == "coco":
        if num_classes not in COCO_CLASSES:
            raise InputError(f"{path} has {num_classes} classes, but COCO's models have 91 or 250: give a JSON that names its own")
        return coco_categories(num_classes)
    source = f"{categories}: " if isinstance(categories, (str, Path)) else "categories: "
    listed = read_categories(Path(categories)) if isinstance(categories, (str, Path)) else categories
    named: dict[int, Category] = {}
    for category in listed:
        if not isinstance(category, Category):
            raise InputError(f"categories must be a path or a list of Category, not of {type(category).__name__}")
        if not 0 <= category.id < num_classes:
            raise InputError(
                f"{source}the id {category.id} ({category.name}) is not one of the {num_classes} classes of {path}, "
                f"0..{num_classes - 1}: leave it out, or give the categories that the model was trained on"
            )
        if category.id in named:
            raise InputError(f"{source}the category id {category.id} occurs twice, give each category its own")
        named[category.id] = category
    return [named.get(c.id, c) for c in nameless(num_classes)]


def read_categories(path: Path) -> list[Category]:
    """The "categories" of a JSON in COCO's format; without `isthing`, as in its detection format, they are things."""
    content = read_json(path, 'a JSON with "categories" in COCO\'s format')
    entries = read_value(content, "categories", list, str(path))
    return [
        read_category({"isthing": 1, **entry} if isinstance(entry, dict) else entry, f"{path}: categories[{index}]")
        for index, entry in enumerate(entries)
    ]
