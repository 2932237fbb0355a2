"""Downloads from a local server that supports ranges, and from ones that misbehave."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from deepgmr.datasets.suites.download import fetch, unpack
from deepgmr.errors import InvalidConfig, InvalidFile, MissingDependency

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one body; `stop_after` closes every connection after so many bytes, while `breaks` lasts."""

    daemon_threads = False  # so that closing waits for them
    body = BODY
    etag: str | None = '"one"'
    ranges = True
    stop_after: int | None = None
    breaks = 0
    status = 200
    requests: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start, total = 0, len(server.body)
        if asked and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(total - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        part = server.body[start:]
        if server.stop_after is not None and server.breaks > 0:
            server.breaks -= 1
            part = part[: server.stop_after]
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    found.requests = []
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def url(server: Server, name: str = "clouds.bin") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/data/{name}"


def get(server: Server, folder: Path, **options: object) -> Path:
    return fetch(url(server), folder, wait=0.0, **options)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_plain_download_is_whole_and_locked(server: Server, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    path = get(server, tmp_path / "new", progress=lambda have, total: heard.append((have, total)))
    assert path.read_bytes() == BODY and names(tmp_path / "new") == ["clouds.bin", "downloads.lock.json"]
    assert heard[-1] == (len(BODY), len(BODY))
    lock = json.loads((tmp_path / "new" / "downloads.lock.json").read_text())
    assert lock == {url(server): {"file": "clouds.bin", "sha256": SHA, "bytes": len(BODY)}}


def test_what_is_there_and_right_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    get(server, tmp_path, sha256=SHA.upper())
    get(server, tmp_path)
    assert len(server.requests) == 1


def test_a_broken_download_resumes_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.stop_after, server.breaks = 300_000, 2
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert server.requests == [None, "bytes=262144-", "bytes=524288-"]  # whole blocks are kept


def test_a_later_call_resumes_too(server: Server, tmp_path: Path) -> None:
    server.stop_after, server.breaks = 0, 99
    (tmp_path / "clouds.bin.part").write_bytes(BODY[:500_000])
    (tmp_path / "clouds.bin.part.validator").write_text('"one"')
    with pytest.raises(InvalidFile, match="broke off after 500000 bytes"):
        get(server, tmp_path, attempts=2)
    assert names(tmp_path) == ["clouds.bin.part", "clouds.bin.part.validator"]
    server.breaks = 0
    assert get(server, tmp_path).read_bytes() == BODY
    assert names(tmp_path) == ["clouds.bin", "downloads.lock.json"]


def test_a_complete_part_is_recognised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "clouds.bin.part").write_bytes(BODY)
    (tmp_path / "clouds.bin.part.validator").write_text('"one"')
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY
    assert server.requests == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("kept", [100_000, len(BODY) + 10])
def test_a_file_that_changed_on_the_server_starts_over(server: Server, tmp_path: Path, kept: int) -> None:
    (tmp_path / "clouds.bin.part").write_bytes(b"x" * kept)
    (tmp_path / "clouds.bin.part.validator").write_text('"older"')
    assert get(server, tmp_path).read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "clouds.bin.part").write_bytes(b"x" * (len(BODY) + 10))
    (tmp_path / "clouds.bin.part.validator").write_text('"one"')
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
def test_servers_that_cannot_resume_start_over(server: Server, tmp_path: Path, change: dict) -> None:
    for key, value in change.items():
        setattr(server, key, value)
    server.stop_after, server.breaks = 300_000, 1
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="expected sha256:00"):
        get(server, tmp_path, sha256="0" * 64)
    assert names(tmp_path) == []


def test_the_lock_file_holds_later_downloads_to_the_first(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path).unlink()
    server.body, server.etag = BODY[:-1] + b"!", '"two"'
    with pytest.raises(InvalidFile, match="has changed"):
        get(server, tmp_path)
    assert names(tmp_path) == ["downloads.lock.json"]


def test_a_corrupt_file_on_disk_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path)
    path.write_bytes(BODY[:-5] + b"wrong")
    assert get(server, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, 3)])
def test_refusals_are_named(server: Server, tmp_path: Path, status: int, tries: int) -> None:
    server.status = status
    with pytest.raises(InvalidFile, match=str(status)):
        get(server, tmp_path, attempts=3)
    assert len(server.requests) == tries and names(tmp_path) == []


def test_nobody_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="broke off after 0 bytes"):
        fetch("http://127.0.0.1:9/x.zip", tmp_path, attempts=2, wait=0.0)


@pytest.mark.parametrize(
    ("address", "sha256"),
    [("ftp://example.org/x", None), ("https://example.org/", None), ("https://example.org/x", "abc")],
)
def test_bad_requests_are_named(tmp_path: Path, address: str, sha256: str | None) -> None:
    with pytest.raises(InvalidConfig):
        fetch(address, tmp_path, sha256=sha256)


def test_a_file_of_unknown_content_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "clouds.bin").write_bytes(b"mine")
    with pytest.raises(InvalidFile, match="nothing says what it should hold"):
        get(server, tmp_path)
    assert (tmp_path / "clouds.bin").read_bytes() == b"mine" and server.requests == []
    assert get(server, tmp_path, sha256=SHA).read_bytes() == BODY


def test_without_pooch_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingDependency, match=r'pip install "deepgmr\[download\]"'):
        fetch("https://example.org/x.zip", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFile, match="could not be written"):
        get(server, tmp_path / "file")


def test_a_broken_lock_file_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "downloads.lock.json").write_text("[1, 2")
    with pytest.raises(InvalidFile, match="not a lock file"):
        get(server, tmp_path)


# -- unpacking ---------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes]) -> bytes:
    memory = BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def test_archives_are_unpacked_whole(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"clouds/one.txt": b"1", "clouds/two.txt": b"2", "__MACOSX/junk": b""}))
    assert unpack(tmp_path / "a.zip", tmp_path / "to") == [tmp_path / "to" / "clouds"]
    assert names(tmp_path / "to" / "clouds") == ["one.txt", "two.txt"] and names(tmp_path / "to") == ["clouds"]
    assert unpack(tmp_path / "a.zip", tmp_path / "to") == [tmp_path / "to" / "clouds"]  # again: nothing to do


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt"])
def test_names_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"fine.txt": b"1", name: b"2"}))
    with pytest.raises(InvalidFile, match="points outside"):
        unpack(tmp_path / "a.zip", tmp_path / "deep" / "to")
    assert names(tmp_path) == ["a.zip"]


def test_corrupt_and_truncated_archives_leave_nothing(tmp_path: Path) -> None:
    whole = zipped({"clouds/one.txt": b"a" * 1000, "clouds/two.txt": b"b" * 1000})
    flipped = bytearray(whole)
    flipped[500] ^= 1  # inside the content of the first file: its CRC no longer fits
    for content in (whole[:700], bytes(flipped), b"not a zip"):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(InvalidFile, match="cannot be unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "to")
        assert not (tmp_path / "to").exists() or names(tmp_path / "to") == []


def test_the_script_downloads_and_unpacks(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "download.py"
    spec = importlib.util.spec_from_file_location("download_script", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server.body = zipped({"clouds/one.txt": b"1"})
    assert module.main([url(server, "a.zip"), "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "a.zip"), str(tmp_path / "clouds")]
    server.status = 404
    assert module.main([url(server, "b.zip"), "--to", str(tmp_path), "--attempts", "1"]) == 2
    assert capsys.readouterr().err.startswith("deepgmr download: error: ")
