"""A panoptic JSON with its PNGs, as truth and predictions are read to be compared; needs no torch, and no scipy."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from PIL import Image

from minidetr.errors import InputError
from minidetr.panoptic import MAX_CATEGORY_ID, MAX_PIXELS, Category, path_inside


def read_ids(path: str | Path) -> np.ndarray:
    """The ids in a panoptic PNG: H x W uint32, id = R + 256 G + 65536 B. InputError if it is missing, damaged or not RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # told below, in a sentence
            opened = Image.open(path, formats=("PNG",))
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first")
            if image.mode in ("RGBA", "P"):
                image = image.convert("RGB")
            if image.mode != "RGB":
                raise InputError(f"{path} is an image of mode {image.mode}, but ids are coded in colours; save it as RGB")
            # Four bytes a pixel are one 32-bit number: no arithmetic on three channels. The fourth byte is padding.
            pixels = np.frombuffer(image.tobytes("raw", "RGBX"), "<u4").reshape(image.height, image.width)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing, but a 'file_name' in its JSON names it; put it there or correct the name") from error
    except InputError:
        raise
    except Exception as error:  # on broken files Pillow's decoder raises anything, SyntaxError and struct.error among them
        raise InputError(f"{path} can't be read as a PNG ({error}); write it again") from error
    return pixels & 0xFFFFFF


def require(entry: dict, name: str, kind: type | tuple[type, ...], where: str | Path):
    """`entry[name]`; InputError if it is not there or not of the type `kind`. `where` names the entry in the sentence."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
        names: dict[type, str] = {Integral: "a whole number", Real: "a number", str: "a text", list: "a list"}
        expected = " or ".join(names[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where} has no field '{name}' that is {expected}; COCO's format asks for it")
    return entry[name]


def read_categories(content: dict, path: str | Path) -> list[Category]:
    """The categories of a panoptic JSON file."""
    categories = []
    for entry in require(content, "categories", list, path):
        category_id = require(entry, "id", Integral, f"a category of {path}")
        if not 0 <= category_id <= MAX_CATEGORY_ID:
            raise InputError(f"{path} has a category with the id {category_id}; give it one in 0..{MAX_CATEGORY_ID}")
        is_thing = require(entry, "isthing", Integral, f"category {category_id} of {path}")
        categories.append(Category(category_id, str(entry.get("name", category_id)), is_thing == 1))
    if len({category.id for category in categories}) < len(categories):
        raise InputError(f"{path} has two 'categories' of the same 'id'; give each an id of its own")
    return categories


class PanopticFile:
    """A panoptic JSON file and the folder of its PNG files; `annotations` by image id, every field used later checked."""

    def __init__(self, content: dict, path: str | Path, folder: str | Path, categories: set[int]) -> None:
        self.content, self.path, self.folder = content, path, folder
        self.annotations: dict[int | str, dict] = {}
        for annotation in require(content, "annotations", list, path):
            image_id = require(annotation, "image_id", (Integral, str), f"an annotation of {path}")
            where = f"the annotation of image {image_id} in {path}"
            if image_id in self.annotations:
                raise InputError(f"{path} has two annotations of image {image_id}; keep one")
            require(annotation, "file_name", str, where)
            for segment in require(annotation, "segments_info", list, where):
                segment_id = require(segment, "id", Integral, f"a segment in {where}")
                if not 0 <= segment_id < 256**3:
                    raise InputError(
                        f"a segment in {where} has the id {segment_id}; give it one in 1..{256**3 - 1}, which a PNG can hold"
                    )
                category_id = require(segment, "category_id", Integral, f"segment {segment_id} in {where}")
                if category_id not in categories:
                    raise InputError(
                        f"segment {segment_id} in {where} has the category_id {category_id}, which is not among the ground truth's "
                        "'categories'; correct it or add the category there"
                    )
            self.annotations[image_id] = annotation

    def png(self, annotation: dict) -> Path:
        """The PNG an annotation names, which must lie in the folder: a JSON from elsewhere opens no other file."""
        where = f"the annotation of image {annotation['image_id']} in {self.path}"
        return path_inside(Path(self.folder), annotation["file_name"], where)

    def by_stem(self) -> dict[str, dict]:
        """The annotations by the name of their image's file without folder and extension; without `images`, by the PNG's."""
        file_names = {}
        for image in require(self.content, "images", list, self.path) if "images" in self.content else ():
            where = f"an image of {self.path}"
            file_names[require(image, "id", (Integral, str), where)] = require(image, "file_name", str, where)
        stems: dict[str, dict] = {}
        for image_id, annotation in self.annotations.items():
            stem = Path(file_names.get(image_id, annotation["file_name"])).stem
            if stem in stems:
                raise InputError(
                    f"{self.path} has two images named '{stem}', so their names can't pair them; use the truth's image ids"
                )
            stems[stem] = annotation
        return stems


def pair_images(truth: PanopticFile, prediction: PanopticFile) -> list[tuple[dict, dict | None]]:
    """Every annotation of the truth with the prediction for its image, or None: by image id, else by the image file's stem."""
    if not prediction.annotations or truth.annotations.keys() & prediction.annotations.keys():
        return [(annotation, prediction.annotations.get(image_id)) for image_id, annotation in truth.annotations.items()]
    gt, predictions = truth.by_stem(), prediction.by_stem()
    if not gt.keys() & predictions.keys():
        raise InputError(
            f"no prediction in {prediction.path} belongs to an annotated image of {truth.path}: neither an 'image_id' nor an "
            "image's 'file_name' agrees; predict the images of that ground truth"
        )
    return [(annotation, predictions.get(stem)) for stem, annotation in gt.items()]
