"""The fast decoder of panoptic PNGs: the same ids as Pillow's, and nothing of a file that is not whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from minidetr.data import pngs
from minidetr.errors import InputError
from minidetr.panoptic import encode_ids

pytest.importorskip("kornia_rs", reason="kornia-rs is not installed: pip install 'minidetr[test]'")


def drawn(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    return generator.choice([0, 1, 255, 256, 65536, 256**3 - 1], (height, width)).astype(np.int32)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (33, 41), (480, 640)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_ids_are_pillow_s(size: tuple[int, int], level: int, tmp_path: Path) -> None:
    path, ids = tmp_path / "ids.png", drawn(np.random.default_rng(0), *size)
    Image.fromarray(encode_ids(ids)).save(path, compress_level=level)
    assert np.array_equal(pngs._coded_ids(path), ids)
    read = pngs.read_ids(path, void=(255,))
    assert np.array_equal(read, np.where(ids == 255, 0, ids)) and read.flags.writeable and read.dtype == np.int32


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_other_kinds_are_left_to_pillow(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "other.png")
    assert pngs._coded_ids(tmp_path / "other.png") is None


def test_missing_and_too_large_files_are_left_to_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pngs._coded_ids(tmp_path / "none.png") is None
    Image.new("RGB", (8, 6)).save(tmp_path / "large.png")
    monkeypatch.setattr(pngs, "MAX_PIXELS", 47)
    assert pngs._coded_ids(tmp_path / "large.png") is None
    with pytest.raises(InputError, match="million pixels"):
        pngs.read_ids(tmp_path / "large.png")


def test_damaged_files_give_the_right_ids_or_none(tmp_path: Path) -> None:
    generator, path, whole = np.random.default_rng(0), tmp_path / "ids.png", 0
    for trial in range(1500):
        ids = drawn(generator, *generator.integers(1, 30, 2))
        Image.fromarray(encode_ids(ids)).save(path, pnginfo=PngImagePlugin.PngInfo())
        content = bytearray(path.read_bytes())
        place = int(generator.integers(0, len(content)))
        if trial % 3 == 0:
            content = content[:place]
        elif trial % 3 == 1:
            content[place] ^= int(generator.integers(1, 256))
        else:
            content = content[:place] + content[place + int(generator.integers(1, 20)) :]
        path.write_bytes(content)
        found = pngs._coded_ids(path)
        assert found is None or np.array_equal(found, ids)
        whole += found is not None
    assert whole  # damage behind the last pixel is none
