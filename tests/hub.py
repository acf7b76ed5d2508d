"""A loopback stand-in for the Hugging Face hub: what huggingface_hub and datasets ask of it, and its failures.

    with Hub() as hub:
        hub.add_tl_model("NeelNanda/GELU_1L512W_C4_Code", tl_directory)
        subprocess.run(..., env=os.environ | hub.environment(cache))

``environment`` is for subprocesses, because huggingface_hub reads its variables when it is imported; ``use_in_process``
patches the module instead. A repository's ``status`` decides whether it is served, its ``faults`` how its files are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Fault = Literal["cut", "drop-once", "short"]
Status = Literal["open", "gated", "private", "broken"]

_REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (503, "")}


@dataclass
class Repo:
    """A repository: its files, and how it is served."""

    repo_id: str
    kind: Literal["models", "datasets"]
    files: dict[str, bytes] = field(default_factory=dict)
    status: Status = "open"
    faults: dict[str, Fault] = field(default_factory=dict)
    """By file. ``cut``: the connection closes halfway, each time; ``drop-once``: only the first time; ``short``: half
    the file is served as the whole."""

    @property
    def sha(self) -> str:
        """A commit hash that follows the content."""
        digest = hashlib.sha1(self.repo_id.encode())
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def info(self) -> dict[str, object]:
        siblings = [{"rfilename": name} for name in sorted(self.files)]
        return {"id": self.repo_id, "sha": self.sha, "siblings": siblings, "private": False, "tags": []}

    def tree(self, folder: str) -> list[dict[str, object]]:
        """All files below a folder, and the folders between, as the hub lists them recursively."""
        prefix = f"{folder}/" if folder else ""
        names = [name for name in sorted(self.files) if name.startswith(prefix)]
        folders = {str(parent) for name in names for parent in Path(name).parents if str(parent) not in (".", folder)}
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)
        ]
        return entries + [self.entry(name) for name in names]

    def entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "oid": etag(self.files[name]), "size": len(self.files[name])}


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub:
    """The server, on a free loopback port, for as long as the context lasts."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection that clients keep alive; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def environment(self, cache: Path, offline: bool = False) -> dict[str, str]:
        """Variables for a subprocess that is to see this hub alone and keep its caches in ``cache``."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_DATASETS_CACHE": str(cache / "datasets"),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def use_in_process(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Point the huggingface_hub of this process at this hub and at a cache of its own."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def add(self, kind: Literal["models", "datasets"], repo_id: str, files: dict[str, bytes]) -> Repo:
        """Serve a repository."""
        repo = Repo(repo_id, kind, dict(files))
        self.repos[kind, repo_id] = repo
        return repo

    def add_model(self, repo_id: str, directory: Path, rename: dict[str, str] | None = None) -> Repo:
        """Serve a model's directory, files renamed where ``rename`` says so."""
        names = rename or {}
        files = {names.get(path.name, path.name): path.read_bytes() for path in directory.iterdir() if path.is_file()}
        return self.add("models", repo_id, files)

    def add_token_dataset(self, repo_id: str, rows: Iterable[Sequence[int]], shards: int = 1) -> Repo:
        """Serve a pre-tokenized set: parquet with a column ``tokens``, as NeelNanda/c4-tokenized-2b."""
        return self._add_parquet(repo_id, "tokens", [list(row) for row in rows], shards)

    def add_text_dataset(self, repo_id: str, texts: Iterable[str], shards: int = 1) -> Repo:
        """Serve a set of texts: parquet with a column ``text``, as NeelNanda/pile-10k."""
        return self._add_parquet(repo_id, "text", list(texts), shards)

    def _add_parquet(self, repo_id: str, column: str, rows: list[object], shards: int) -> Repo:
        files = {}
        for shard in range(shards):
            table, buffer = pa.table({column: rows[shard::shards]}), io.BytesIO()
            pq.write_table(table, buffer)
            files[f"data/train-{shard:05d}-of-{shards:05d}.parquet"] = buffer.getvalue()
        return self.add("datasets", repo_id, files)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The request handler of one hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            hub.connections.append(self.connection)

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """Requests are kept in ``hub.requests`` instead."""

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(f"{self.command} /{path}")
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if path.startswith("api/"):
                self._answer_api(path.removeprefix("api/"), body)
            elif "/resolve/" in path:
                self._answer_file(path)
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

        def _find(self, kind: str, path: str) -> tuple[Repo | None, str]:
            """The repository at the start of a path, and what follows it."""
            found = [r for (k, repo_id), r in hub.repos.items() if k == kind and f"{path}/".startswith(f"{repo_id}/")]
            if not found:
                return None, path
            repo = max(found, key=lambda repo: len(repo.repo_id))
            return repo, path[len(repo.repo_id) :].strip("/")

        def _refuse(self, repo: Repo | None) -> bool:
            """Send the refusal of a repository that is missing or not open."""
            if repo is None:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif repo.status != "open":
                status, code = _REFUSALS[repo.status]
                self._send(status, b"", {"X-Error-Code": code} if code else {})
            return repo is None or repo.status != "open"

        def _answer_api(self, path: str, body: bytes) -> None:
            kind, _, rest = path.partition("/")
            repo, what = self._find(kind, rest)
            if self._refuse(repo):
                return
            assert repo is not None
            if what == "" or what.startswith("revision/"):
                self._send_json(repo.info())
            elif what.startswith("tree/"):
                folder = "/".join(what.split("/")[2:])
                entries = repo.tree(folder)
                missing = folder and not entries
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}) if missing else self._send_json(entries)
            elif what.startswith("paths-info/"):
                paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
                self._send_json([repo.entry(name) for name in paths if name in repo.files])
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

        def _answer_file(self, path: str) -> None:
            kind = "datasets" if path.startswith("datasets/") else "models"
            repo, what = self._find(kind, path.removeprefix("datasets/"))
            if self._refuse(repo):
                return
            assert repo is not None
            _, revision, name = what.split("/", 2)
            headers = {"X-Repo-Commit": repo.sha}
            if revision not in ("main", repo.sha):
                self._send(404, b"", headers | {"X-Error-Code": "RevisionNotFound"})
            elif name not in repo.files:
                self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
            else:
                self._send_file(repo, name, headers)

        def _send_file(self, repo: Repo, name: str, headers: dict[str, str]) -> None:
            content, fault = repo.files[name], repo.faults.get(name)
            headers = headers | {"ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
            if self.command == "HEAD":
                self._send(200, content, headers)
                return
            if fault == "short":
                content = content[: len(content) // 2]
            status, part = 200, content
            requested = self.headers.get("Range")
            if requested:
                first, _, last = requested.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
                status, part = 206, content[start : end + 1]
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            if fault in ("cut", "drop-once"):
                repo.faults = {other: kind for other, kind in repo.faults.items() if kind == "cut" or other != name}
                self._break_off(status, part, headers)
            else:
                self._send(status, part, headers)

        def _send_json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _break_off(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            """Promise the whole, send half, and close the connection."""
            self._send_head(status, content, headers)
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self._send_head(status, content, headers)
            if self.command != "HEAD":
                self.wfile.write(content)

        def _send_head(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

    return Handler


def run_environment(hub: Hub, cache: Path, offline: bool = False) -> dict[str, str]:
    """This process' environment with the hub's variables, for ``subprocess.run(env=…)``."""
    return os.environ | hub.environment(cache, offline)
