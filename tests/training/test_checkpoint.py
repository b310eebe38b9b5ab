"""Checkpoints: whole or not at all, the damaged newest one passed over by name, random states put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from minidetr.errors import InputError
from minidetr.training import checkpoint
from minidetr.training.checkpoint import NAME, PREVIOUS, random_state, read_checkpoint, set_random_state, write_checkpoint


def content(number: int) -> dict:
    return {"number": number, "weights": {"a": torch.full((1000,), float(number))}, "random": [random_state()], "none": None}


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints."""
    write_checkpoint(tmp_path, content(1))
    write_checkpoint(tmp_path, content(2))
    return tmp_path


def test_the_newest_is_read_and_the_one_before_kept(run):
    saved, warning = read_checkpoint(run)
    assert saved["number"] == 2 and warning is None and torch.equal(saved["weights"]["a"], torch.full((1000,), 2.0))
    assert sorted(path.name for path in run.iterdir()) == [PREVIOUS, NAME]
    write_checkpoint(run, content(3))
    assert read_checkpoint(run)[0]["number"] == 3
    (run / NAME).unlink()
    assert read_checkpoint(run)[0]["number"] == 2  # cut off between the two renames


def broken(data: bytes):
    """Ways in which a disk or a killed process leaves a file."""
    yield from (b"", b"not a checkpoint", bytes(len(data)), data[: len(data) // 2], data[:-100], data[:30], data[1:])
    middle = len(data) // 2
    yield data[: middle - 64] + bytes(128) + data[middle + 64 :]
    for place in range(0, len(data), len(data) // 40):
        yield data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(run):
    data = (run / NAME).read_bytes()
    passed_over = 0
    for number, damaged in enumerate(broken(data)):
        (run / NAME).write_bytes(damaged)
        saved, warning = read_checkpoint(run)  # never another error
        if warning is None:  # a bit that nothing depends on
            assert number >= 7 and torch.equal(saved["weights"]["a"], torch.full((1000,), 2.0)), number
        else:
            passed_over += 1
            assert saved["number"] == 1 and str(run / NAME) in warning and "damaged" in warning
    assert passed_over >= 10


def test_two_damaged_checkpoints_are_a_sentence(run):
    for name in (NAME, PREVIOUS):
        (run / name).write_bytes(b"x")
    with pytest.raises(InputError, match="every checkpoint is damaged.*--from"):
        read_checkpoint(run)


def test_no_checkpoint_is_a_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=rf"{folder.name} holds no {NAME} to resume from"):
            read_checkpoint(folder)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").mkdir, ())

    torch.save({"number": Harmful()}, tmp_path / NAME)
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(run, monkeypatch):
    def half(whole, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(run, content(3))
    assert read_checkpoint(run)[0]["number"] == 2
    monkeypatch.undo()

    monkeypatch.setattr(checkpoint.torch, "save", lambda whole, file: file.write(b"written, but broken"))
    with pytest.raises(Exception):  # noqa: B017 (whatever torch.load says of it)
        write_checkpoint(run, content(3))
    monkeypatch.undo()
    assert read_checkpoint(run)[0]["number"] == 2


def test_random_states_are_put_back(tmp_path):
    def draw() -> list[float]:
        python, numpy = [random.random(), random.gauss(0, 1)], [np.random.rand(), np.random.randn()]
        return [*python, *numpy, *torch.rand(3).tolist(), torch.randn(1).item()]

    draw()
    write_checkpoint(tmp_path, content(1))
    expected = draw()
    draw()
    saved, _ = read_checkpoint(tmp_path)
    set_random_state(saved["random"][0])
    assert draw() == expected
