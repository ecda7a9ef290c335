"""A server of files on this machine that knows ranges and can fail in the ways that servers do."""

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from chemeleon_cli.sources import published


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path; `faults` are used up one a request: a status, or ("cut", bytes), "whole", "other"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str | tuple[str, int]] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        assert self.headers["Accept-Encoding"] == "identity"
        path = urlsplit(self.path).path
        self.server.asked.append((path, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int) or path not in self.server.files:
            return self.send(fault if isinstance(fault, int) else 404, b"no")
        content = self.server.files[path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if fault == "whole":
            start, wanted = 0, None
        if fault == "other":
            start = 0
        if start >= len(content):
            return self.send(416, b"")
        end = fault[1] if isinstance(fault, tuple) else None
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if wanted else {}
        self.send(206 if wanted else 200, content[start:], headers, end)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, end: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:end])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs while the block does."""
    server = FileServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def publish(server: FileServer, monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Let a set of the table be published on the server, with its columns but other bytes."""
    files = []
    for n, (file, content) in enumerate(contents.items()):
        server.files[f"/{name}/{file}"] = content
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        checksum = f"git:{git}" if n == 0 else f"sha256:{hashlib.sha256(content).hexdigest()}"
        files.append(published.Download(file, f"{server.url}/{name}/{file}", checksum))
    changed = dataclasses.replace(published.SETS[name], files=tuple(files))
    monkeypatch.setitem(published.SETS, name, changed)
