"""The Hugging Face hub: a folder with weights and a model card written from the run, and its upload when asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from minidetr.data.coco import whole_folder
from minidetr.errors import InputError
from minidetr.export.engine import empty
from minidetr.model import PanopticDETR
from minidetr.panoptic import read_json
from minidetr.weights.hub import is_hub_name
from minidetr.weights.load import save

HEADER = """---
library_name: minidetr
pipeline_tag: image-segmentation
tags: [panoptic-segmentation, detr, minidetr]
---
"""
SETTINGS = (
    "preset",
    "from_",
    "backbone_weights",
    "steps",
    "recipe",
    "size",
    "epochs",
    "minutes",
    "batch_size",
    "learning_rate",
    "seed",
)


def export(model: PanopticDETR, folder: str | Path, run: Path | None = None, repo: str = "ORG/NAME") -> list[str]:
    """Write model.safetensors in minidetr's own format, README.md (the model card) and the run's pictures.

    `run` is the folder of the training that the model comes from: what the card says of data, settings and scores is read from its
    options.json, why/why.json and test.json; without one the card says what the weights hold. Returns the names of the pictures.
    Raises InputError for a folder that is not empty, a `repo` that is no ORG/NAME, and files of the run that it did not write so.
    """
    if not is_hub_name(repo):
        raise InputError(f"{repo} is no name of the hub: give ORG/NAME")
    with whole_folder(empty(folder)) as part:
        save(model, part / "model.safetensors")
        pictures = {}
        if run is not None:
            found = {"curves.png": run / "curves.png", "validation.png": max((run / "validation").glob("*.png"), default=run / "-")}
            pictures = {name: path for name, path in found.items() if path.is_file()}
            for name, path in pictures.items():
                shutil.copyfile(path, part / name)
        try:
            text = card(model, run, repo, list(pictures))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{run}: its options.json, test.json or why/why.json is not as a run writes it ({error!r})") from error
        (part / "README.md").write_text(text, encoding="utf-8")
    return list(pictures)


def card(model: PanopticDETR, run: Path | None, repo: str, pictures: list[str]) -> str:
    """The model card in Markdown; every number in it is one that the run wrote."""
    stuff = [c.name for c in model.categories if not c.is_thing]
    things = [c.name for c in model.categories if c.is_thing]
    preset, name = model.preset, repo.rsplit("/", 1)[1]
    number = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    masks = "boxes only" if not preset.has_masks else "panoptic segmentation"
    lines = [
        f"{HEADER}# {name}",
        "",
        f"A DETR for {masks}: {preset.backbone}, {preset.queries} queries, {number:.1f} million parameters.",
        "",
        f"- things ({len(things)}): {', '.join(things)}",
        f"- stuff ({len(stuff)}): {', '.join(stuff)}",
        f"- images are resized to a short side of {preset.short_side} pixels (the long one at most {preset.long_side})",
        f"- queries that score above {preset.threshold:g} are kept",
        "",
        "```python",
        "import minidetr",
        "",
        f'model = minidetr.PanopticDETR.from_pretrained("{repo}")',
        'panoptic = model.segment(["photo.jpg"])[0]',
        "```",
        "",
        *trained(run),
        *scored(run),
        *(f"![{path.removesuffix('.png')}]({path})" for path in pictures),
    ]
    return "\n".join(lines) + "\n"


def trained(run: Path | None) -> list[str]:
    """How a run was trained, as lines of Markdown: its data by name (no path of anyone's machine) and its settings."""
    if run is None or not (run / "options.json").is_file():
        return []
    options = read_json(run / "options.json", "the options of a run")
    data = options.get("data")
    rows = {"data": Path(data).name if data else "rendered scenes"}
    for setting in SETTINGS:
        value = options.get(setting)
        if value is not None:
            rows[setting.strip("_")] = Path(value).name if setting in ("from_", "backbone_weights") else str(value)
    return ["## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]


def scored(run: Path | None) -> list[str]:
    """What a run scored, as lines of Markdown, and what it was measured on."""
    if run is None:
        return []
    lines = []
    if (run / "test.json").is_file():
        scores = read_json(run / "test.json", "the scores of a run")
        said = ", ".join(f"{name} {value:.1f}" for name, value in scores.items() if isinstance(value, float))
        lines += [f"On {scores['images']} test images, evaluated once: {said}.", ""]
    if (run / "why" / "why.json").is_file():
        content = read_json(run / "why" / "why.json", "the scores of a run")
        quality: dict[str, Any] = content["quality"]
        rows = [(name, quality[name]) for name in ("All", "Things", "Stuff") if name in quality]
        rows += [(row["name"], row) for row in quality["per_class"].values()]
        lines += [f"On {content['images']} validation images, on which weights and threshold were chosen, in percent:", ""]
        lines += ["| | PQ | SQ | RQ |", "|---|---|---|---|"]
        lines += [f"| {name} | {percent(row['pq'])} | {percent(row['sq'])} | {percent(row['rq'])} |" for name, row in rows]
        lines.append("")
    return ["## Scores", "", *lines] if lines else []


def percent(value: float | None) -> str:
    """A share of 1 in percent, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def upload(folder: Path, repo: str, private: bool = False, endpoint: str | None = None, token: str | None = None) -> str:
    """Upload an exported folder to the hub as `repo`, made if it is not there; returns its address.

    The token is that of `hf auth login` or HF_TOKEN (None). Raises InputError without one, and for whatever the hub refuses.
    """
    import huggingface_hub

    if token is None and huggingface_hub.get_token() is None:
        raise InputError("no token of the Hugging Face hub: run `hf auth login`, or set HF_TOKEN")
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model and card, by minidetr export")
    except Exception as error:  # the hub's own errors and those of its client for the web
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{repo} could not be uploaded ({reason}): {folder} is whole, upload it again") from error
    return str(address)
