"""Names of photos: extensions, PNGs, and files found by names that other tools wrote."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidetr.data.names import Finder, files_below, png_names, stem_of
from minidetr.errors import InputError


def test_stems() -> None:
    names = ("south/001.jpg", "frame.001", "a.JPEG", "v1.2/photo", ".jpg", "a.b.png")
    assert [stem_of(name) for name in names] == ["south/001", "frame.001", "a", "v1.2/photo", ".jpg", "a.b"]


def test_every_photo_has_a_png_of_its_own() -> None:
    assert png_names(["south/1.jpg", "north/1.jpg", "frame.001", "frame.002"]) == [
        "south/1.png",
        "north/1.png",
        "frame.001.png",
        "frame.002.png",
    ]
    assert png_names(["a.jpg", "a.png", "b.jpg"]) == ["a.jpg.png", "a.png.png", "b.png"]
    odd = png_names(["A.jpg", "a.jpg", "a.png", "a.jpg.webp", "a.jpg.png"])
    assert len({name.casefold() for name in odd}) == 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.jpg",
        "south/b c.jpg",
        "south/d.jpg",
        "north/d.jpg",
        "x/y/z.png",
        unicodedata.normalize("NFC", "é.jpg"),
        "50%20.jpg",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("images/train/a.jpg", "a.jpg"),
        ("/home/someone/photos/a.jpg", "a.jpg"),
        ("C:\\Users\\me\\photos\\a.jpg", "a.jpg"),
        ("..\\..\\media\\upload\\a.jpg", "a.jpg"),
        ("south\\b c.jpg", "south/b c.jpg"),
        ("south/b%20c.jpg", "south/b c.jpg"),
        ("b c.jpg", "south/b c.jpg"),
        ("project/south/d.jpg", "south/d.jpg"),
        ("y/z.png", "x/y/z.png"),
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
        ("%C3%A9.jpg", unicodedata.normalize("NFC", "é.jpg")),
        ("50%20.jpg", "50%20.jpg"),
        ("https://example.org/data/a.jpg", "a.jpg"),
        ("/data/local-files/?d=south/d.jpg", "south/d.jpg"),
        ("north/a.jpg", None),
        ("far/north/b c.jpg", None),
        ("../secret.jpg", None),
        ("../photos/a.jpg", "a.jpg"),
        ("b.jpg", None),
        ("", None),
        ("a\0.jpg", None),
    ],
)
def test_names_of_other_tools(folder: Path, name: str, file: str | None) -> None:
    assert Finder(folder).find(name) == file


def test_two_files_that_fit_are_both_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"north/d\.jpg or south/d\.jpg"):
        Finder(folder).find("d.jpg")


def test_a_file_is_that_of_the_name_that_is_exactly_it(folder: Path) -> None:
    finder = Finder(folder)
    assert finder.find("west/a.jpg") == finder.find("A.jpg") == "a.jpg"
    finder.claim(["a.jpg", "A.jpg", "west/a.jpg"])
    assert [finder.find(name) for name in ("a.jpg", "A.jpg", "west/a.jpg")] == ["a.jpg", None, None]


def test_a_file_is_not_that_of_two_names(folder: Path) -> None:
    finder = Finder(folder)
    finder.claim(["west/a.jpg", "west\\a.jpg", "east/a.jpg"])
    assert finder.find("west/a.jpg") == finder.find("west\\a.jpg") == "a.jpg"
    with pytest.raises(InputError, match=r"'east/a\.jpg' and 'west/a\.jpg' may both be a\.jpg.*one of the two files is missing"):
        finder.find("east/a.jpg")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_that_lead_out_are_not_found(folder: Path) -> None:
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    finder = Finder(folder)
    assert "out.jpg" not in sum(finder.files().values(), [])
    assert finder.find("somewhere/in.jpg") == "in.jpg"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_are_followed_when_asked_each_folder_once(folder: Path) -> None:
    before = files_below(folder)
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder.parent / "card").mkdir()
    (folder.parent / "card" / "e.jpg").write_bytes(b"x")
    (folder / "card").symlink_to(folder.parent / "card")
    (folder / "south" / "up").symlink_to(folder)
    (folder / ".hidden").symlink_to(folder.parent / "card")
    assert files_below(folder) == before
    assert files_below(folder, follow=True) == sorted([*before, "out.jpg", "card/e.jpg"])


def test_a_folder_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(top: object, onerror: Callable[[OSError], None], followlinks: bool) -> Iterator[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(13, "Permission denied", "photos/private"))
        yield str(top), [], []

    monkeypatch.setattr("minidetr.data.names.os.walk", denied)
    with pytest.raises(InputError, match=r"photos/private cannot be read \(Permission denied\)"):
        files_below(folder)
