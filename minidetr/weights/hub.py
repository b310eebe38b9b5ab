"""Models on the Hugging Face hub: `org/name` to a folder in the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from minidetr.errors import InputError

DESCRIPTIONS = ["config.json", "*.index.json"]


def is_hub_name(name: str) -> bool:
    """Whether a name that is nothing on this disk can be one of the hub: `org/name`, but no weights file, and no folder `org` here.

    A slip in a path of one's own is so told at once, without asking the hub.
    """
    is_file = name.endswith((".pth", ".pt", ".ckpt", ".bin", ".json", ".safetensors"))
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not is_file and not Path(name).parent.exists()


def fetched(name: str) -> Path:
    """The folder of the model `org/name`, kept in the hub's cache: safetensors, else pickles.

    Only weights and their descriptions are fetched, of the repository's top folder. Raises InputError.
    """
    import huggingface_hub  # late: nobody else needs it

    try:
        for weights in ("*.safetensors", "*.bin"):
            wanted = [*DESCRIPTIONS, weights]
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns="*/*"))
            if any(folder.glob(weights)):
                break
    except Exception as error:  # the hub's own errors, those of its client for the web, and the operating system's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} is no folder here and could not be fetched from the Hugging Face hub ({reason}): download config.json and "
            f"model.safetensors from https://huggingface.co/{name}/tree/main by hand and put them into a folder {name}"
        ) from error
    return folder
