"""What Python makes of the page's scenes, as files that the page's own tests read: pixels, truth, and PyTorch's result.

python tests/page/reference.py OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from minidetr.course.trace import trace
from minidetr.export.onnx import classes_of
from minidetr.model import PanopticDETR
from minidetr.scenes.dataset import HELD_OUT_SEED
from minidetr.scenes.render import render_scene

COUNT = 20


def write(folder: Path, count: int = COUNT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = PanopticDETR.from_pretrained("tiny").eval()
    expected = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
        side = 288
        scene = render_scene(seed, side, side)
        of_segment = {entry["id"]: entry["category_id"] for entry in scene.segments_info}
        truth = np.vectorize(of_segment.get)(scene.segment_ids).astype(np.uint8)
        panoptic = model.segment([scene.image])[0]
        classes = np.maximum(classes_of(panoptic), 0).astype(np.uint8)
        for name, values in (("rgb", scene.image), ("truth", truth), ("classes", classes)):
            (folder / f"{seed}-{side}.{name}").write_bytes(np.ascontiguousarray(values).tobytes())

        expected.append({"seed": seed, "side": side, "kept": trace(model, scene.image).query_index.tolist()})
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
