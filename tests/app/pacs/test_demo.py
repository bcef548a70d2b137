"""`make pacs-demo` says what it needs, and starts nothing where that is missing."""

from __future__ import annotations

import socket

from app.pacs import demo


def test_a_machine_without_orthanc_is_told_so_in_one_line(monkeypatch, capsys):
    monkeypatch.delenv(demo.INSIDE, raising=False)
    monkeypatch.setattr(demo, "PATH", "/nowhere")
    assert demo.main([]) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("NO_PROGRAM: no Orthanc, unshare, ip; apt-get install orthanc")


def test_a_folder_without_files_is_told_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(demo.INSIDE, str(tmp_path))
    assert demo.main([str(tmp_path)]) == 3
    assert "NO_DATA: no file in" in capsys.readouterr().err


def test_the_relay_of_the_page_carries_both_ways_through_a_socket(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with demo._relayed(tmp_path / "s", port), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            client.sendall(b"asked")
            peer, _ = server.accept()
            with peer:
                assert peer.recv(5) == b"asked"
                peer.sendall(b"answered")
            assert client.recv(8) == b"answered"
