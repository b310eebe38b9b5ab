"""Every kind of photo arrives as RGB, upright; what is no photo is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidetr.data import images
from minidetr.data.images import MEAN, STD, denormalise, normalise, read_image, to_tensor
from minidetr.errors import InputError


@pytest.fixture
def picture() -> Image.Image:
    """Smooth, so that JPEG keeps it, unequal sides, and different in every corner and channel."""
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 2 - y * 3], axis=-1).astype(np.uint8))


def close(image: Image.Image, expected: Image.Image, atol: int = 0) -> None:
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image).astype(int), np.asarray(expected).astype(int), atol=atol)


# What the camera stores so that this orientation tag turns it upright: the inverse operation.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation_is_applied(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.transpose(STORED[orientation]).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    close(read_image(tmp_path / "a.jpg"), picture, atol=12)


def test_broken_exif_keeps_the_photo(tmp_path, picture):
    picture.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=b"Exif\0\0" + b"garbage!" * 4)
    close(read_image(tmp_path / "a.jpg"), picture, atol=12)


def test_rgb_png_is_read_exactly_from_path_text_and_pillow(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), picture):
        close(read_image(source), picture)


def test_grey_and_palette(tmp_path, picture):
    for mode in ("L", "P", "1"):
        converted = picture.convert(mode)
        converted.save(tmp_path / f"{mode}.png")
        close(read_image(tmp_path / f"{mode}.png"), converted.convert("RGB"))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    grey = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(grey, np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_every_integer_mode_of_pillow(mode):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]])
    kind = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
    image = Image.frombytes(mode, (3, 2), values.astype(kind).tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(image))[..., 0], [[0, 0, 1], [128, 255, 255]])


def test_transparent_pixels_show_white(tmp_path, picture):
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, 30:] = 0
    expected = np.asarray(picture).copy()
    expected[:, 30:] = 255
    rgba = picture.copy()
    rgba.putalpha(Image.fromarray(alpha))
    rgba.save(tmp_path / "rgba.png")
    close(read_image(tmp_path / "rgba.png"), Image.fromarray(expected))

    la = picture.convert("L")
    grey = np.asarray(la.convert("RGB")).copy()
    grey[:, 30:] = 255
    la.putalpha(Image.fromarray(alpha))
    la.save(tmp_path / "la.png")
    close(read_image(tmp_path / "la.png"), Image.fromarray(grey))


def test_half_transparent_is_halfway_to_white():
    assert read_image(Image.new("RGBA", (2, 2), (0, 100, 255, 128))).getpixel((0, 0)) == pytest.approx((127, 177, 255), abs=1)


def test_transparent_palette_entry_shows_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "p.png", transparency=1)
    expected = np.array([[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]])
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "p.png")), expected)


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(np.asarray(read_image(tmp_path / "a.jpg")), np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=4)


def _broken(kind: str, path, picture: Image.Image) -> None:
    picture.save(path, format="JPEG" if "jpeg" in kind else "PNG")
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no image at all")
    elif kind == "header only":
        path.write_bytes(content[:20])
    elif kind == "bad checksum":
        path.write_bytes(content.replace(b"IHDR", b"IHDX"))
    else:
        path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("kind", ["empty", "text", "header only", "bad checksum", "truncated png", "truncated jpeg"])
def test_broken_files_are_named(tmp_path, picture, kind):
    path = tmp_path / "photo_17.jpg"
    _broken(kind, path, picture)
    with pytest.raises(InputError, match="photo_17.jpg"):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=tmp_path.name):
        read_image(tmp_path)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tiff")
    with pytest.raises(InputError, match="f.tiff has floating point"):
        read_image(tmp_path / "f.tiff")


@pytest.mark.parametrize("side", [9_600, 30_000])  # Pillow warns about the first and raises for the second
def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)  # claims side x side grey pixels, holds none
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb\.png .*million pixels"):
        read_image(tmp_path / "bomb.png")


def test_the_limit_holds_for_given_images_and_lets_large_photos_pass(monkeypatch):
    assert read_image(Image.new("L", (3456, 2400))).size == (3456, 2400)  # 8 megapixels
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(InputError, match="the given image is 10 x 10 pixels"):
        read_image(Image.new("RGB", (10, 10)))


def test_tensor_and_back(picture):
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 40, 60) and tensor.dtype == torch.uint8 and type(tensor) is torch.Tensor
    assert tensor[:, 7, 50].tolist() == list(picture.getpixel((50, 7)))
    torch.testing.assert_close(to_tensor(np.asarray(picture).copy()), tensor)

    normal = normalise(tensor)
    assert normal.dtype == torch.float32
    for channel in range(3):
        expected = (tensor[channel, 7, 50].item() / 255 - MEAN[channel]) / STD[channel]
        assert normal[channel, 7, 50].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(normalise(tensor.double() / 255), normal)
    torch.testing.assert_close(denormalise(normal), tensor / 255)


def test_normalise_leaves_its_input_alone():
    image = torch.rand(3, 4, 5)
    before = image.clone()
    normalise(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("loaded", [True, False])
def test_an_image_that_was_closed(tmp_path: Path, loaded: bool) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    if loaded:
        image.load()
    image.close()
    with pytest.raises(InputError, match="^the given image cannot be converted .*: give it before it is closed$"):
        read_image(image)
