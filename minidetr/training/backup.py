"""A copy of a run where a disconnected machine can't lose it, such as a mounted Google Drive: what `--resume` needs, no more.

Its files are overwritten where they lie. A file that another takes the place of goes into Drive's trash, which counts against the
quota: half a gigabyte at every checkpoint. An overwritten one's earlier versions do not count (developers.google.com/drive,
"Manage file revisions": only those set to "Keep Forever" do).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from minidetr.errors import InputError
from minidetr.panoptic import whole_file
from minidetr.training.checkpoint import NAME, PREVIOUS, has_checkpoint, is_whole, read_whole, run_folder
from minidetr.training.report import LOSSES, SCORES

SMALL = ("options.json", LOSSES, SCORES, "curves.png", "test.json")  # beside checkpoint and best weights
BEST = "best.safetensors"


def prepare(folder: Path, run: Path) -> None:
    """Make the folder of a backup. Raises InputError where it is the run's own, can't be written, or holds another run."""
    if folder.resolve() == run.resolve():
        raise InputError(f"--backup {folder} is the run's own folder: give another one, on a disk that stays")
    if has_checkpoint(folder):
        raise InputError(
            f"--backup {folder} holds a run already: go on with it by --resume {folder} --output {run}, or choose another"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--backup {folder} can't be made ({error.strerror}): is the drive mounted?") from error


def back_up(run: Path, folder: Path) -> str:
    """Copy the newest checkpoint of a run, its best weights and tables; returns what went wrong in a sentence, or "".

    Of the two checkpoints there the older one is overwritten, so that a copy cut off leaves a whole one. The run goes on in any
    case: a full drive must not end it.
    """
    try:
        if not folder.is_dir():
            raise OSError(None, "the folder is gone")
        slots = [folder / NAME, folder / PREVIOUS]
        slots.sort(key=lambda slot: slot.stat().st_mtime_ns if slot.exists() else 0)
        write_in_place(run / NAME, slots[0])
        for name in (BEST, *SMALL):
            theirs = folder / name
            if (run / name).exists() and (name != BEST or changed(run / name, theirs)):
                write_in_place(run / name, theirs)
    except OSError as error:
        return f"attention: no backup to {folder} ({error.strerror}): the run goes on, its checkpoints are in {run}"
    return ""


def changed(source: Path, copy: Path) -> bool:
    """Whether a file is newer than its copy, or of another length."""
    if not copy.exists():
        return True
    one, other = source.stat(), copy.stat()
    return one.st_size != other.st_size or one.st_mtime_ns > other.st_mtime_ns


def write_in_place(source: Path, target: Path) -> None:
    """Overwrite the bytes of `target`, which stays the same file."""
    with source.open("rb") as content, target.open("r+b" if target.exists() else "wb") as file:
        shutil.copyfileobj(content, file, 2**20)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def read_backup(folder: Path) -> tuple[dict[str, Any], Path]:
    """The newer of the whole checkpoints of a backup, and its file. Raises InputError where none is whole."""
    whole = [(read_whole(slot), slot) for name in (NAME, PREVIOUS) if is_whole(slot := folder / name)]
    if not whole:
        raise InputError(f"{folder} holds no whole {NAME} to resume from: give the folder of a run or of its --backup")
    return max(whole, key=lambda entry: entry[0]["place"]["iteration"] if "place" in entry[0] else -1)


def restore(folder: Path, checkpoint: Path, run: Path) -> None:
    """Copy a backup, its file `checkpoint` for the newest, into the folder of a run, to go on there."""
    with run_folder(run):
        for name in (BEST, *SMALL):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, run / name)
        with whole_file(run / NAME) as temporary:
            shutil.copyfile(checkpoint, temporary)
