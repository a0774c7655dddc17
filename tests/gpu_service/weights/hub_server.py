"""A small hub on the loopback: what huggingface_hub asks of the real one to fetch a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

Repositories = Mapping[str, Mapping[str, bytes]]  # id: {file: content}


class HubServer(ThreadingHTTPServer):
    """Serves `repositories` and remembers which files were fetched."""

    daemon_threads = True

    def __init__(self, repositories: Repositories) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path.startswith("api/models/"):
            self._answer_api(path.removeprefix("api/models/"))
        else:
            self._answer_file(path)

    do_HEAD = do_GET

    def _answer_api(self, path: str) -> None:
        is_tree = "/tree/" in path
        repository = path.partition("/tree/" if is_tree else "/revision/")[0]
        files = self.server.repositories.get(repository)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_tree:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _sha1(data)}
                for name, data in files.items()
            ]
            self._send(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            info = {
                "id": repository,
                "sha": _sha1(repository.encode()),
                "siblings": siblings,
                "tags": [],
            }
            self._send(200, json.dumps(info).encode())

    def _answer_file(self, path: str) -> None:
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        data = self.server.repositories.get(repository, {}).get(name)
        commit = {"X-Repo-Commit": _sha1(repository.encode())}
        if data is None:
            self._send(404, b"", commit | {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET":
            self.server.fetched.append(name)
        self._send(200, data, commit | {"ETag": f'"{_sha1(data)}"'})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *_: object) -> None:
        """Nothing on stderr."""


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def hub_server(
    repositories: Repositories, cache: Path, patch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A running server that huggingface_hub takes for the hub, with a cache of its own."""
    server = HubServer(repositories)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    use_cache(cache, patch, server.url)
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_cache(cache: Path, patch: pytest.MonkeyPatch, url: str = "http://127.0.0.1:1") -> None:
    """Another cache, and another hub; without one there is nobody to talk to.

    The library takes these from the environment, but when it is imported.
    """
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
