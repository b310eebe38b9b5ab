"""Every kind of finding of `minidetr data check`: how much it matters, what it is, and whether `--fix` can mend it."""

from __future__ import annotations

from minidetr.data.foreign import READINGS

LEVELS = ("breaks training", "bends a metric", "good to know")
BREAKS, BENDS, KNOW = range(3)

MENDED_READINGS = {"no-geometry": "dropped", "same-file": "joined", "size-unsaid": "", "fractions": ""}

# kind: (level, what it is, how `--fix` mends it; empty: it would have to guess)
KINDS: dict[str, tuple[int, str, str]] = {
    "field": (BREAKS, "a field is missing or holds the wrong kind of value", ""),
    "file-name": (BREAKS, "file name that leads out of its folder", ""),
    "name-unclear": (BREAKS, "file name that may mean two files", ""),
    "isthing": (BREAKS, "category without 'isthing' 0 or 1: nothing says whether it is a thing or stuff", ""),
    "category-id-twice": (BREAKS, "category id used twice", "identical entries are dropped"),
    "image-id-twice": (BREAKS, "image id used twice", "identical entries are dropped"),
    "image-annotation-twice": (BREAKS, "image with two panoptic annotations", "identical entries are dropped"),
    "segment-id-twice": (BREAKS, "segment id used twice in an image", "identical entries are dropped"),
    "segment-id-range": (BREAKS, "segment id outside 1..16777215: 0 is void, and a PNG holds no more", ""),
    "unknown-image": (BREAKS, "annotation of an image that is not listed", "dropped"),
    "unknown-category": (BREAKS, "category id that is not listed", ""),
    "image-without-annotation": (BREAKS, "image without a panoptic annotation", "dropped"),
    "no-photo": (BREAKS, "image whose photo is missing", "dropped with its annotations"),
    "photo": (BREAKS, "photo that can't be read", ""),
    "png": (BREAKS, "panoptic PNG is missing or can't be read", ""),
    "png-mode": (BREAKS, "panoptic PNG is not RGB with 8 bits a channel, and no reading, or more than one, fits the JSON", ""),
    "size": (BREAKS, "photo and annotation have different sizes", ""),
    "exif-unrotated": (BREAKS, "photo is turned by its EXIF orientation, its annotation is not", "written without turning"),
    "id-not-listed": (BREAKS, "PNG has pixels of an id that the JSON does not list", ""),
    "id-without-pixel": (BREAKS, "JSON lists a segment without a pixel in the PNG", "dropped, unless an id is not listed"),
    "polygon-odd": (BREAKS, "polygon with an odd number of coordinates", ""),
    "polygon-far": (BREAKS, "polygon far outside of its image", ""),
    "run-lengths": (BREAKS, "run lengths that do not fit the image's size", ""),
    "no-outline": (BENDS, "annotation without an outline: assemble draws its box, without one the object is lost", ""),
    "paints-nothing": (BENDS, "outline that covers no pixel: the object is lost", ""),
    "polygon-short": (BENDS, "polygon of fewer than 3 points: left out by assemble, 2 are read as a box by pycocotools", "dropped"),
    "stale-area": (BENDS, "'area' differs from the pixels", "counted again"),
    "stale-box": (BENDS, "'bbox' disagrees with the pixels by more than a pixel", "measured again"),
    "json-size": (BENDS, "'width' and 'height' in the JSON differ from the photo's and PNG's", "written again"),
    "exif-unturned": (KNOW, "photo is turned by its EXIF orientation, its annotation is not: assemble writes it as annotated", ""),
    "exif-unclear": (BENDS, "photo is turned by its EXIF orientation, and no size tells whether its annotation is", ""),
    "duplicate-annotation": (BENDS, "annotation identical to another but for its id", "dropped"),
    "drawn-twice": (BENDS, "two annotations of one class cover the same pixels (IoU above 0.8)", ""),
    "stuff-twice": (BENDS, "stuff class with several segments in an image, each counted by the metric", ""),
    "category-name-twice": (BENDS, "category name used twice", ""),
    "file-twice": (BENDS, "two images with the same photo or PNG", ""),
    "near-duplicate": (BENDS, "photo looks like another one; `minidetr data split` keeps them on one side", ""),
    "annotation-id-twice": (BENDS, "annotation id used twice: pycocotools keeps the last one only", "numbered again"),
    "turned-box": (KNOW, "box with a rotation in its attributes (CVAT): assemble draws it turned", ""),
    "many-crowds": (BENDS, "much consists of crowds, which are not trained on: --crowds as-objects reads them as objects", ""),
    **{
        kind: (BENDS if kind in ("no-geometry", "fractions") else KNOW, text, MENDED_READINGS.get(kind, "written plainly"))
        for kind, text in READINGS.items()
    },
    "annotation-without-id": (KNOW, "annotation without an id", "numbered"),
    "hole": (KNOW, "outline with holes (polygons that wind the other way): assemble cuts them out, COCO's tools fill them", ""),
    "isthing-unsaid": (KNOW, "category without 'isthing': assemble takes it for a thing unless --stuff names it", ""),
    "outside": (KNOW, "polygon reaches out of the image by more than a pixel: what is outside is cut off", ""),
    "polygon-empty": (KNOW, "polygon with an area of 0 (a dot or a line)", "dropped"),
    "polygon-crossing": (KNOW, "polygon crosses itself: tools disagree on what it encloses", ""),
    "small-area-difference": (KNOW, "'area' differs from the pixels by at most 5 %: another convention", "counted again"),
    "box-convention": (KNOW, "'bbox' is off by at most a pixel: measured by another convention", "measured again"),
    "exif-upright": (KNOW, "photo is turned by its EXIF orientation, its annotation too: some tools ignore it", "written upright"),
    "png-form": (KNOW, "panoptic PNG is not RGB with 8 bits a channel: read in the one way that fits the JSON", "written as RGB"),
    "photo-mode": (KNOW, "photo is not RGB (grey, palette, 16 bits, CMYK, transparent): converted on reading", "written as RGB"),
    "empty-image": (KNOW, "image without any segment", ""),
    "no-thing": (KNOW, "image with stuff only", ""),
    "no-stuff": (KNOW, "image with things only", ""),
    "mostly-void": (KNOW, "more than half of the image belongs to no segment", ""),
    "overlap": (KNOW, "outlines overlap on more than a tenth of the image: assemble's --order decides", ""),
    "tiny": (KNOW, "segment smaller than a cell of the predicted masks (4 x 4 pixels, as the model sees the photo)", ""),
    "queries": (KNOW, "image with more segments than the model has queries", ""),
    "crowd": (KNOW, "crowd: not trained on, never counted as missed", ""),
    "class-unused": (KNOW, "class that no segment has", ""),
    "class-once": (KNOW, "class in one image only: it can be trained on or measured, not both", ""),
    "imbalance": (KNOW, "class with less than a hundredth of the most frequent class's segments", ""),
    "attributes": (KNOW, "annotation with 'attributes' of the annotation tool, which are not read", ""),
    "unlisted-file": (KNOW, "file that the JSON does not name", ""),
}
