"""Real photographs for the lessons: of a free licence, fetched where there is a network, never part of the repository."""

from __future__ import annotations

import hashlib
import io
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from PIL import Image

from minidetr.errors import InputError
from minidetr.model import PanopticDETR
from minidetr.panoptic import whole_file
from minidetr.weights.published import cached

SKIMAGE = "https://raw.githubusercontent.com/scikit-image/scikit-image/v0.25.2/skimage/data/"
SKLEARN = "https://raw.githubusercontent.com/scikit-learn/scikit-learn/1.5.2/sklearn/datasets/images/"


@dataclass(frozen=True)
class Photograph:
    """Where a photograph lies, the SHA-256 that its file must have, and whose it is."""

    address: str
    sha256: str
    author: str
    licence: str


PHOTOGRAPHS = {
    "coffee": Photograph(
        SKIMAGE + "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar",
        "CC0 1.0",
    ),
    "cat": Photograph(
        SKIMAGE + "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "Stéfan van der Walt",
        "CC0 1.0",
    ),
    "temple": Photograph(
        SKLEARN + "china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "danielbuechele on Flickr",
        "CC BY 2.0",
    ),
}


def photograph(name: str) -> Image.Image | None:
    """The photograph (RGB), its author printed; None, and a sentence, where it is neither in the cache nor to be fetched.

    The cache is torch.hub's folder. Raises InputError when a file's SHA-256 is another.
    """
    about = PHOTOGRAPHS[name]
    path = Path(torch.hub.get_dir()) / "photographs" / about.address.rsplit("/", 1)[1]
    if path.is_file():
        content = path.read_bytes()
    else:
        try:
            with urllib.request.urlopen(about.address, timeout=20) as reply:
                content = reply.read()
        except (URLError, OSError):
            print(f"the photograph '{name}' cannot be fetched here: run this cell where there is a network, on Colab for example")
            return None
    if hashlib.sha256(content).hexdigest() != about.sha256:
        raise InputError(f"the photograph from {about.address} is not the expected file (its SHA-256 is another): delete {path}")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(content)
    print(f"photograph: {about.author}, {about.licence}")
    return Image.open(io.BytesIO(content), formats=("PNG", "JPEG")).convert("RGB")


def published_model() -> PanopticDETR | None:
    """DETR R50 with its published weights for COCO, from the cache or fetched (170 MB); None, and a sentence, without a network."""
    try:
        return PanopticDETR.from_pretrained("detr-r50-panoptic").eval()
    except InputError:
        if cached("detr-r50-panoptic"):  # there, but damaged
            raise
        print("the published weights cannot be fetched here: run this cell where there is a network, on Colab for example")
        return None
