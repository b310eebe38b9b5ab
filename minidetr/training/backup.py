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
from minidetr.training.checkpoint import NAME, PREVIOUS, read_whole_ones
from minidetr.training.report import LOSSES, SCORES
from minidetr.weights.files import read_safetensors

SMALL = ("options.json", LOSSES, SCORES, "curves.png", "test.json")  # beside checkpoint and best weights
BEST, NEXT_BEST = "best.safetensors", "best.next.safetensors"


class Backup:
    """The folder of a backup, which gets a run's files by `copy`."""

    def __init__(self, folder: Path, run: Path, identity: str):
        """Make the folder, for the run `identity`. InputError where it can't be made, or is the run's own or another's."""
        self.folder = folder
        if folder.resolve().is_relative_to(run.resolve()):
            raise InputError(f"--backup {folder} is the run's own folder or in it: give another one, on a disk that stays")
        there = read_whole_ones(folder)
        if any(content.get("identity") != identity for content, _ in there) or (not there and (folder / NAME).exists()):
            raise InputError(
                f"--backup {folder} holds another run: go on with that one by --resume {folder} --output {run}, or choose another"
            )
        try:
            folder.mkdir(exist_ok=True)  # without its parents: a drive that isn't mounted must not be made up
        except OSError as error:
            raise InputError(
                f"--backup {folder} can't be made ({error.strerror}): is the drive mounted, and is there the folder above it?"
            ) from error
        self.whole = there[0][1] if there else None  # the newest checkpoint there that is known to be whole: never overwritten
        self.copied: tuple[int, int] | None = None  # size and time of the best weights that were copied last

    def copy(self, run: Path) -> str:
        """Copy the newest checkpoint of a run, its best weights and tables; returns what went wrong in a sentence, or "".

        Of everything large there is a whole copy at any moment, however often a copy is cut off. The run goes on in any case: a
        full drive must not end it.
        """
        try:
            if not self.folder.is_dir():
                raise OSError(None, "the folder is gone")
            slot = self.folder / (PREVIOUS if self.whole == self.folder / NAME else NAME)
            write_in_place(run / NAME, slot)
            self.whole = slot
            if (run / BEST).exists() and (now := ((stat := (run / BEST).stat()).st_size, stat.st_mtime_ns)) != self.copied:
                write_in_place(run / BEST, self.folder / NEXT_BEST)
                write_in_place(run / BEST, self.folder / BEST)
                self.copied = now
            for name in SMALL:
                if (run / name).exists():
                    write_in_place(run / name, self.folder / name)
        except OSError as error:
            return f"attention: no backup to {self.folder} ({error.strerror}): the run goes on, its checkpoints are in {run}"
        return ""


def write_in_place(source: Path, target: Path) -> None:
    """Overwrite the bytes of `target`, which stays the same file."""
    with source.open("rb") as content, target.open("r+b" if target.exists() else "wb") as file:
        shutil.copyfileobj(content, file, 2**20)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def is_backup(folder: Path, saved: dict[str, Any]) -> bool:
    """Whether a folder with the checkpoint `saved` is a backup: its run was elsewhere, and was backed up."""
    options = saved["options"]
    return bool(options.get("backup")) and Path(options["output"]).resolve() != folder.resolve()


def restore(folder: Path, run: Path) -> bool:
    """Copy tables and best weights of a run or a backup into the folder of a run, to go on there.

    Returns whether there are whole best weights; without, the next ones that are judged are the best.
    """
    for name in SMALL:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, run / name)
    best = next((folder / name for name in (BEST, NEXT_BEST) if is_whole_weights(folder / name)), None)
    if best is not None:
        shutil.copyfile(best, run / BEST)
    return best is not None


def is_whole_weights(path: Path) -> bool:
    """Whether a file is there and can be read to its end."""
    try:
        read_safetensors(path)
    except (InputError, OSError):
        return False
    return True
