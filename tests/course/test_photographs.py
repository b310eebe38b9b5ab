"""Photographs are fetched once, checked by their hash, and a lesson without a network goes on."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from minidetr import course
from minidetr.course import photographs
from minidetr.errors import InputError
from minidetr.weights.published import PUBLISHED


@pytest.fixture
def of_a_file(tmp_path: Path, monkeypatch):
    """A photograph "coffee" that lies in a local file; gives the file, and the folder where the cache is."""
    buffer = io.BytesIO()
    Image.new("L", (7, 5), 128).save(buffer, format="png")
    file = tmp_path / "there" / "coffee.png"
    file.parent.mkdir()
    file.write_bytes(buffer.getvalue())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    about = replace(photographs.PHOTOGRAPHS["coffee"], address=file.as_uri(), sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "coffee", about)
    return file, tmp_path / "cache" / "photographs" / "coffee.png"


def test_a_photograph_is_fetched_once_and_its_author_named(of_a_file, capsys):
    there, cached = of_a_file
    photo = course.photograph("coffee")
    assert photo.size == (7, 5) and photo.mode == "RGB"
    assert "Rachel Michetti" in capsys.readouterr().out
    there.unlink()
    assert cached.is_file()
    assert course.photograph("coffee").size == (7, 5)  # now from the cache
    assert list(cached.parent.iterdir()) == [cached]


def test_another_file_is_refused(of_a_file):
    there, cached = of_a_file
    there.write_bytes(there.read_bytes() + b" ")
    with pytest.raises(InputError, match="SHA-256"):
        course.photograph("coffee")
    assert not cached.exists()


def test_without_a_network_it_says_so(of_a_file, capsys):
    of_a_file[0].unlink()
    assert course.photograph("coffee") is None
    assert "cannot be fetched here" in capsys.readouterr().out


def test_published_model_without_a_network(monkeypatch, tmp_path, capsys):
    def no_network(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    assert course.published_model() is None
    assert "cannot be fetched here" in capsys.readouterr().out


def test_damaged_published_weights_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / PUBLISHED["detr-r50-panoptic"][1]
    path.parent.mkdir()
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="damaged"):
        course.published_model()


@pytest.mark.parametrize("name", photographs.PHOTOGRAPHS)
def test_every_photograph_has_an_address_a_hash_an_author_and_a_free_licence(name):
    about = photographs.PHOTOGRAPHS[name]
    assert about.address.startswith("https://")
    assert len(about.sha256) == 64 and set(about.sha256) <= set("0123456789abcdef")
    assert about.author and about.licence in ("CC0 1.0", "CC BY 2.0")
