"""Checkpoints: everything a run needs to go on exactly where it was, written so that being cut off loses nothing."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from minidetr.errors import InputError
from minidetr.panoptic import whole_file

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


@contextmanager
def run_folder(run: Path) -> Iterator[None]:
    """Make the folder of a run; where the run is refused before it wrote anything, the folders made for it go again."""
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: the run had begun
            for folder in made:
                folder.rmdir()
        raise


def write_checkpoint(run: Path, content: dict[str, Any]) -> None:
    """Write beside, read back, then rename; the checkpoint before it is kept. `content` is tensors and plain containers.

    Raises OSError when the disk is full: the checkpoints that were there are then as they were.
    """
    with whole_file(run / NAME) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:  # what torch makes of an OSError while it writes
            raise disk_error(error) from error
        read_whole(temporary)  # raises if it isn't
        if is_whole(run / NAME):  # a damaged one must not take the place of the good one before it
            (run / NAME).replace(run / PREVIOUS)


def disk_error(error: BaseException) -> BaseException:
    """The OSError (disk full, say) behind an error of torch, or else the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return OSError(cause.errno, cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return error


def has_checkpoint(run: Path) -> bool:
    """Whether a folder holds a run that can be gone on with: killed between two renames it has only the previous checkpoint."""
    return (run / NAME).exists() or (run / PREVIOUS).exists()


def read_checkpoint(run: Path) -> tuple[dict[str, Any], str | None]:
    """The newest whole checkpoint of a run, and a sentence about a damaged one that was passed over. Raises InputError."""
    whole = read_whole_ones(run)
    damaged = [run / name for name in (NAME, PREVIOUS) if (run / name).is_file() and run / name not in {path for _, path in whole}]
    if whole:
        return whole[0][0], f"{run / NAME} is damaged: the checkpoint before it is used" if run / NAME in damaged else None
    if damaged:
        raise InputError(f"{run}: every checkpoint is damaged: start a new run, from last.safetensors with --from")
    raise InputError(f"{run} holds no {NAME} to resume from: give the folder of a run that was cut off, or of its --backup")


def read_whole_ones(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """The checkpoints of a folder that are whole, with their files, that of most iterations first, whatever its name."""
    found = []
    for path in (folder / NAME, folder / PREVIOUS):
        if path.is_file():
            with suppress(Exception):  # on damaged files zipfile and the unpickler raise anything
                found.append((read_whole(path), path))

    def iterations(entry: tuple[dict[str, Any], Path]) -> int:
        place = entry[0].get("place")
        return place.get("iteration", -1) if isinstance(place, dict) else -1

    return sorted(found, key=iterations, reverse=True)


def read_whole(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote to a file, its checksums compared first: torch reads changed numbers without a word."""
    if not is_whole(path):
        raise zipfile.BadZipFile(f"{path} is cut off, or has another checksum than it was written with")
    return torch.load(path, map_location="cpu", weights_only=True)


def is_whole(path: Path) -> bool:
    """Whether a file that `torch.save` wrote is there and every checksum in it is right."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # on damaged files zipfile raises anything
        return False


def random_state() -> dict[str, Any]:
    """The state of every random generator a training step may draw from."""
    version, keys, *rest = random.getstate()
    kind, key, position, has_gauss, gauss = cast(Any, np.random.get_state())
    return {
        "python": [version, list(keys), *rest],
        "numpy": [kind, torch.from_numpy(key.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` saw."""
    version, keys, *rest = state["python"]
    random.setstate((version, tuple(keys), *rest))
    kind, key, *rest = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
