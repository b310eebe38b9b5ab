"""A truth and a prediction on disk, panoptic JSON and PNGs each, joined to be compared; needs no torch, and no scipy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from minidetr.data.foreign import flag_of
from minidetr.data.names import Finder
from minidetr.data.pngs import misread, read_ids, void_ids
from minidetr.errors import InputError
from minidetr.evaluate.pairs import Classes, Id, pair_names
from minidetr.panoptic import MAX_CATEGORY_ID, Category, path_inside, read_json


@dataclass(frozen=True)
class ImageCounts:
    """How many images the truth annotates, how many of them are predicted, and how many predictions are of other images."""

    annotated: int
    predicted: int
    unknown: int


@dataclass(frozen=True)
class Labels:
    """What a file says of one image: its segments, COCO's entries with the truth's category ids, and ids that mean void."""

    image_id: Id
    photo: str | None  # its name in 'images'
    png_name: str
    segments: list[dict]
    void: frozenset[int]
    where: str  # for sentences

    def read(self, png: Path) -> np.ndarray:
        """The ids H W in the image's PNG."""
        return read_ids(png, {segment["id"] for segment in self.segments}, self.void)

    def misread(self, png: Path) -> str:
        """What an unfitting PNG may be, for the end of a sentence."""
        return misread(png, {segment["id"] for segment in self.segments}, self.void)


class PanopticFile:
    """A panoptic JSON file and the folder of its PNG files; `labels` by image id, every field used later checked."""

    def __init__(
        self, content: dict, path: str | Path, folder: str | Path | None, classes: Classes, void: Collection[int], is_truth: bool
    ) -> None:
        self.path, self.folder = path, folder
        self.finder = Finder(folder) if folder is not None else None
        names = _image_names(content, path)
        self.has_names = bool(names)
        self.labels: dict[Id, Labels] = {}
        for annotation in require(content, "annotations", list, path):
            image_id = image_key(annotation, "image_id", f"an annotation of {path}")
            where = f"the annotation of image {image_id} in {path}"
            if image_id in self.labels:
                raise InputError(f"{path} has two annotations of image {image_id}; keep one")
            if names and image_id not in names:
                raise InputError(f"{where} has no entry in 'images' with a 'file_name', but others have; add it")
            png_name = require(annotation, "file_name", str, where)
            entries = require(annotation, "segments_info", list, where)
            segments, ids_of_nothing = _segments(entries, classes, set(void) if is_truth else set(), where)
            listed = set() if is_truth else {segment["id"] for segment in segments}
            ids = frozenset((set(void) - listed) | ids_of_nothing)
            self.labels[image_id] = Labels(image_id, names.get(image_id), png_name, segments, ids, where)
        if self.finder is not None:
            self.finder.claim([labels.png_name for labels in self.labels.values()])

    def png(self, labels: Labels) -> Path:
        """The PNG of an image: as named, or else the one file in the folder that the name fits; a JSON opens no file elsewhere."""
        if self.folder is None:
            raise InputError(
                f"{labels.where} has a segment without 'bbox'; add it, or give the folder of the PNGs to measure it there"
            )
        assert self.finder is not None
        name = labels.png_name
        found = self.finder.find(name)
        return path_inside(self.finder.folder, name if found is None else found, labels.where)


def _segments(entries: list, classes: Classes, void: set[int], where: str) -> tuple[list[dict], set[int]]:
    """The segments of an image, and the ids of those that are left out: their pixels are void."""
    segments, left_out = [], set()
    for entry in entries:
        segment_id = whole_number(entry, "id", f"a segment in {where}")
        if not 0 <= segment_id < 256**3:
            raise InputError(f"a segment in {where} has the id {segment_id}; give it one in 1..{256**3 - 1}, which a PNG can hold")
        if segment_id in void:
            left_out.add(segment_id)
            continue
        place = f"segment {segment_id} in {where}"
        category_id = classes.truth_id(whole_number(entry, "category_id", place), place)
        crowd = flag_of(entry.get("iscrowd"))
        if crowd not in (None, 0, 1):
            raise InputError(f"{place} has the 'iscrowd' {entry['iscrowd']!r}, but it must be 0 or 1")
        if category_id is None:
            left_out.add(segment_id)
        else:
            segments.append(entry | {"id": segment_id, "category_id": category_id, "iscrowd": int(crowd or 0)})
    return segments, left_out


# --- truth and prediction ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A truth and a prediction, image by image; what panoptic quality, the AP of boxes and the page of the worst start from.

    `categories` are the truth's, with their entries in its JSON; a pair has None where there is no prediction. `notes` are
    sentences on what somebody who compares these files may not expect.
    """

    categories: list[Category]
    entries: list[dict]
    truth: PanopticFile
    prediction: PanopticFile
    pairs: list[tuple[Labels, Labels | None]]
    counts: ImageCounts
    notes: tuple[str, ...]


def compare(
    gt_json: str | Path,
    gt_dir: str | Path | None,
    pred_json: str | Path,
    pred_dir: str | Path | None,
    void: Collection[int] = (),
) -> Comparison:
    """Join the images and the classes of a truth and a prediction.

    Images pair by the names in 'images' (`pair_names`); by id where one of the files names none. Classes pair by name where the
    prediction has 'categories' (`Classes`). Pixels of ids in `void`, and of predicted classes that the truth lacks, become void,
    and their segments are left out; an id that the prediction lists as a segment stays one. Raises InputError for what can't be
    joined, naming file and field.
    """
    void = void_ids(void)
    truth_content, predicted_content = read_json(gt_json), read_json(pred_json)
    categories = read_categories(truth_content, gt_json)
    truth_names = class_names(truth_content, gt_json)
    predicted_names = class_names(predicted_content, pred_json) if predicted_content.get("categories") else None
    classes = Classes(truth_names, gt_json, predicted_names, pred_json)
    truth = PanopticFile(truth_content, gt_json, gt_dir, Classes(truth_names, gt_json, None, gt_json), void, is_truth=True)
    prediction = PanopticFile(predicted_content, pred_json, pred_dir, classes, void, is_truth=False)
    pairs = pair_images(truth, prediction)
    predicted = sum(labels is not None for _, labels in pairs)
    counts = ImageCounts(len(pairs), predicted, len(prediction.labels) - predicted)

    notes = []
    if predicted < len(pairs):
        notes.append(
            f"images of {gt_json} with a prediction in {pred_json}: {predicted} of {len(pairs)}; the others count as missed"
        )
    if counts.unknown:
        notes.append(
            f"predictions in {pred_json} for images that {gt_json} does not annotate, which do not count: {counts.unknown}"
        )
    if classes.unknown:
        names, count = _some(classes.unknown), classes.unknown.total()
        notes.append(f"segments in {pred_json} of classes that {gt_json} lacks ({names}), which count as unlabelled: {count}")
    notes += [*_shared_pngs(truth), *_shared_pngs(prediction), *_names_against_ids(truth, prediction, pairs)]
    if predicted_names is not None:
        notes += _other_kinds(categories, classes, predicted_content["categories"], gt_json, pred_json)
    entries = [entry | {"id": category.id} for entry, category in zip(truth_content["categories"], categories, strict=True)]
    return Comparison(categories, entries, truth, prediction, pairs, counts, tuple(notes))


def pair_images(truth: PanopticFile, prediction: PanopticFile) -> list[tuple[Labels, Labels | None]]:
    """Every annotation of the truth with the prediction for its image, or None; see `compare`."""
    if not prediction.labels:
        return [(labels, None) for labels in truth.labels.values()]
    shared = [image_id for image_id in truth.labels if image_id in prediction.labels]
    if shared and not (truth.has_names and prediction.has_names):
        return [(labels, prediction.labels.get(image_id)) for image_id, labels in truth.labels.items()]
    names = {i: labels.photo or labels.png_name for i, labels in truth.labels.items()}
    predicted = {i: labels.photo or labels.png_name for i, labels in prediction.labels.items()}
    pairs = pair_names(names, predicted, truth.path, prediction.path)
    if not pairs and shared:
        one = shared[0]
        raise InputError(
            f"image {one} is '{names[one]}' in {truth.path} but '{predicted[one]}' in {prediction.path}, and no name agrees; give "
            "a photo the same 'file_name' in 'images' of both, or leave 'images' out of one if the ids are right"
        )
    if not pairs:
        raise InputError(
            f"no prediction in {prediction.path} belongs to an annotated image of {truth.path}: neither an 'image_id' nor an "
            "image's 'file_name' agrees; predict the images of that ground truth"
        )
    return [(labels, prediction.labels[pairs[i]] if i in pairs else None) for i, labels in truth.labels.items()]


def _shared_pngs(file: PanopticFile) -> list[str]:
    """A note if several annotations name one PNG."""
    count = Counter(labels.png_name for labels in file.labels.values())
    shared = [name for name in count if count[name] > 1]
    return [f"PNGs that several annotations of {file.path} name, where each should have its own: {_some(shared)}"] if shared else []


def _names_against_ids(truth: PanopticFile, prediction: PanopticFile, pairs: list[tuple[Labels, Labels | None]]) -> list[str]:
    """A note if images were paired by ids, for want of 'images', but the names that are there would pair them otherwise."""
    if truth.has_names and prediction.has_names:
        return []
    names, predicted = ({i: labels.photo or labels.png_name for i, labels in f.labels.items()} for f in (truth, prediction))
    try:
        by_name = pair_names(names, predicted, truth.path, prediction.path)
    except InputError:  # names that tell nothing contradict nothing
        return []
    other = [(gt.image_id, p.image_id) for gt, p in pairs if p and by_name.get(gt.image_id, p.image_id) != p.image_id]
    if not other:
        return []
    (one, its), lacking = other[0], prediction if truth.has_names else truth
    return [
        f"images paired by 'image_id', since {lacking.path} names none in 'images', that names would pair otherwise: {len(other)}, "
        f"such as {one}, '{names[one]}' in {truth.path} but '{predicted[its]}' in {prediction.path}; if the names are right, add "
        "'images' with 'file_name'"
    ]


def _other_kinds(
    categories: list[Category], classes: Classes, entries: list[dict], gt_json: str | Path, pred_json: str | Path
) -> list[str]:
    """A note if classes are things in one file and stuff in the other."""
    is_thing: dict[int | None, bool] = {category.id: category.is_thing for category in categories}
    pairs: dict[int | None, int] = {number: other for number, other in classes.pairs.items()}
    other = [
        str(entry.get("name", entry["id"]))
        for entry in entries
        if (said := flag_of(entry.get("isthing"))) in (0, 1) and is_thing.get(pairs.get(whole(entry["id"])), said) != said
    ]
    if not other:
        return []
    return [f"'isthing' of {_some(other)} in {pred_json} is not that in {gt_json}, which decides where a class is counted"]


def _some(names: Collection[str]) -> str:
    return ", ".join(map(repr, list(names)[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# --- fields -----------------------------------------------------------------------------------------------------------------


def require(entry: dict, name: str, kind: type | tuple[type, ...], where: str | Path):
    """`entry[name]`; InputError if it is not there or not of the type `kind`. `where` names the entry in the sentence."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
        raise _lacking(name, kind, where)
    return entry[name]


def _lacking(name: str, kind: type | tuple[type, ...], where: str | Path) -> InputError:
    names: dict[type, str] = {Integral: "a whole number", Real: "a number", str: "a text", list: "a list"}
    expected = " or ".join(names[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
    return InputError(f"{where} has no field '{name}' that is {expected}; COCO's format asks for it")


def whole(value: object) -> int | None:
    """A whole number, also one written as 7.0 or "7"; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def whole_number(entry: dict, name: str, where: str | Path) -> int:
    """`entry[name]` as `whole` reads it, or InputError."""
    value = whole(entry.get(name)) if isinstance(entry, dict) else None
    if value is None:
        raise _lacking(name, Integral, where)
    return value


def image_key(entry: dict, name: str, where: str | Path) -> Id:
    """`entry[name]` as the id of an image: a whole number where it is or means one (7, 7.0, "7"), else a text. InputError."""
    value = entry.get(name) if isinstance(entry, dict) else None
    number = whole(value)
    if number is None and isinstance(value, str):
        return value
    if number is None:
        raise _lacking(name, (Integral, str), where)
    return number


def _image_names(content: dict, path: str | Path) -> dict[Id, str]:
    """The photos' file names by image id; empty where the file names none. InputError where one image has two names."""
    names: dict[Id, str] = {}
    for image in require(content, "images", list, path) if content.get("images") is not None else ():
        image_id = image_key(image, "id", f"an image of {path}")
        if image.get("file_name") in (None, ""):
            continue
        name = require(image, "file_name", str, f"image {image_id} of {path}")
        if names.setdefault(image_id, name) != name:
            raise InputError(
                f"{path} has two 'images' with the id {image_id}, '{names[image_id]}' and '{name}'; give each an id of its own"
            )
    return names


def read_categories(content: dict, path: str | Path) -> list[Category]:
    """The categories of a panoptic JSON file."""
    categories = []
    for (category_id, name), entry in zip(class_names(content, path).items(), content["categories"], strict=True):
        is_thing = flag_of(entry.get("isthing"))
        if is_thing not in (0, 1):
            said = f"the 'isthing' {entry['isthing']!r}" if "isthing" in entry else "no field 'isthing'"
            raise InputError(f"category {category_id} of {path} has {said}, but it must be 1 (things) or 0 (stuff)")
        categories.append(Category(category_id, name or str(category_id), is_thing == 1))
    return categories


def class_names(content: dict, path: str | Path) -> dict[int, str]:
    """The names of a file's categories by id, "" where one has none."""
    names: dict[int, str] = {}
    for entry in require(content, "categories", list, path):
        category_id = whole_number(entry, "id", f"a category of {path}")
        if not 0 <= category_id <= MAX_CATEGORY_ID:
            raise InputError(f"{path} has a category with the id {category_id}; give it one in 0..{MAX_CATEGORY_ID}")
        if category_id in names:
            raise InputError(f"{path} has two 'categories' of the same 'id'; give each an id of its own")
        name = entry.get("name")
        names[category_id] = "" if name is None else str(name)
    return names
