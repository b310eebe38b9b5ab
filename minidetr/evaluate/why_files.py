"""`evaluate --why` of a prediction on disk: what its files alone can tell."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetr.data.coco import check_empty
from minidetr.data.names import Finder
from minidetr.evaluate.files import compare
from minidetr.evaluate.why import Explanation
from minidetr.evaluate.why_page import write_why
from minidetr.evaluate.worst import colored, photo_named, read_both, read_photo
from minidetr.panoptic import Panoptic


def explain_files(
    gt_json: str | Path,
    gt_dir: str | Path,
    pred_json: str | Path,
    pred_dir: str | Path,
    photos_dir: str | Path,
    out_dir: str | Path,
    void: Collection[int] = (),
) -> Explanation:
    """Write OUT/index.html and OUT/why.json: what the prediction's panoptic quality is lost to, without its dropped queries.

    Truth, prediction and `void` as `panoptic_quality` takes them; `photos_dir` holds the photos that the truth's JSON names. Raises
    InputError for input that is missing or contradicts itself, and when OUT holds anything.
    """
    out, finder = Path(out_dir).resolve(), Finder(Path(photos_dir))
    check_empty(out)
    compared = compare(gt_json, gt_dir, pred_json, pred_dir, void)
    categories = colored(compared)
    result = Explanation(categories)
    for index, (gt, pred) in enumerate(tqdm(compared.pairs, desc="looking for mistakes", unit="image", disable=None)):
        gt_ids, pred_ids = read_both(compared, gt, pred)
        predicted = Panoptic.of_entries(pred_ids, pred.segments if pred else [], categories)
        result.add(index, gt_ids, gt.segments, predicted)

    def photo(index: int) -> tuple[str, np.ndarray]:
        gt = compared.pairs[index][0]
        path = photo_named(gt, finder, gt_json)
        pixels = read_photo(path, gt.read(compared.truth.png(gt)), compared.truth.png(gt))
        return path.relative_to(finder.folder).as_posix(), pixels

    write_why(result, photo, out)
    return result
