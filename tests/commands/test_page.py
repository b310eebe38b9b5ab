"""`minidetr page`: files with their types, for this machine alone; a clear sentence where nothing is built."""

from __future__ import annotations

import threading
import urllib.request

import pytest

from minidetr.commands import page
from minidetr.commands.main import main
from minidetr.errors import InputError


def test_it_serves_what_is_built_with_the_types_that_browsers_ask_for(tmp_path):
    for name in ("index.html", "a.mjs", "b.wasm", "c.json"):
        (tmp_path / name).write_text(name)
    with page.server(tmp_path, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, kind in (
            ("", "text/html"),
            ("a.mjs", "text/javascript"),
            ("b.wasm", "application/wasm"),
            ("c.json", "application/json"),
        ):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{name}") as reply:
                assert reply.headers.get_content_type() == kind
                assert reply.read().decode() == (name or "index.html")
        server.shutdown()


def test_what_cannot_be_served_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "BUILT", tmp_path)
    assert main(["page"]) == 2
    assert "make page" in capsys.readouterr().err
    (tmp_path / "index.html").write_text("")
    assert main(["page", "--port", "70000"]) == 2
    assert "70000" in capsys.readouterr().err
    with page.server(tmp_path, 0) as taken, pytest.raises(InputError, match="choose another"):
        page.server(tmp_path, taken.server_port)
