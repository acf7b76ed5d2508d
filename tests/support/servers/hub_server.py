"""What the stand-in for the Hugging Face hub answers: its listings, its files, its refusals and its faults.

Requests are answered as the hub answers huggingface_hub: hashes in headers, ranges of bytes, codes of errors in
``X-Error-Code``. Repositories and counts are those of the ``Hub`` that the server belongs to.
"""

from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from tests.support.servers.hub import Hub, Repo

REFUSALS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "broken": (503, "")}
CDN_HOST = "localhost"
"""Another host than the hub's 127.0.0.1, as far as a client can tell."""

Headers = dict[str, str]


class HubServer(ThreadingHTTPServer):
    """Serves one hub on a free loopback port."""

    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        """A client that goes away in mid-answer is part of the tests."""


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Requests are kept in ``hub.requests`` instead."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = parts.path.strip("/")
        self.hub.requests.append(f"{self.command} /{unquote(path)}")
        if "authorization" in self.headers:
            self.hub.authorized.append((self.headers["Host"].partition(":")[0], self.headers["authorization"]))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith("api/"):
            self._answer_api(path.removeprefix("api/"), parse_qs(parts.query), body)
        elif path.startswith("cdn/"):
            self._answer_cdn(path.removeprefix("cdn/"))
        elif "/resolve/" in path:
            self._answer_file(path)
        else:
            self._refuse_with(404, "RepoNotFound")

    def _find(self, kind: str, path: str) -> tuple[Repo | None, list[str]]:
        """The repository at the start of a path, and the segments that follow it, each unquoted."""
        segments = [unquote(segment) for segment in path.split("/")]
        for length in (2, 1):
            repo = self.hub.repos.get((kind, "/".join(segments[:length])))
            if repo is not None:
                return repo, segments[length:]
        return None, segments

    def _refuse(self, repo: Repo | None) -> bool:
        """Send the refusal of a repository that is missing or not open."""
        if repo is None:
            self._refuse_with(404, "RepoNotFound")
        elif repo.status != "open":
            self._refuse_with(*REFUSALS[repo.status])
        return repo is None or repo.status != "open"

    def _refuse_with(self, status: int, code: str, headers: Headers | None = None) -> None:
        self._send(status, b"", (headers or {}) | ({"X-Error-Code": code} if code else {}))

    def _answer_api(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        kind, _, rest = path.partition("/")
        repo, segments = self._find(kind, rest)
        if self._refuse(repo):
            return
        assert repo is not None
        what, revision, *folders = segments + ["", "main"][len(segments) :]
        files = repo.files_at(revision)
        if files is None:
            self._refuse_with(404, "RevisionNotFound")
        elif what in ("", "revision"):
            self._send_json(repo.info(revision, with_sizes="blobs" in query))
        elif what == "tree":
            recursive = query.get("recursive", ["False"])[0].lower() in ("true", "1")
            entries = repo.tree(files, "/".join(folders), recursive)
            if folders and not entries:
                self._refuse_with(404, "EntryNotFound")
            else:
                self._send_json(entries)
        elif what == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            self._send_json([repo.entry(name, files[name]) for name in paths if name in files])
        else:
            self._refuse_with(404, "EntryNotFound")

    def _answer_file(self, path: str) -> None:
        kind = "datasets" if path.startswith("datasets/") else "models"
        repo, segments = self._find(kind, path.removeprefix("datasets/"))
        if self._refuse(repo):
            return
        assert repo is not None
        _, revision, *parts = segments
        files, name = repo.files_at(revision), "/".join(parts)
        if files is None:
            self._refuse_with(404, "RevisionNotFound")
            return
        headers = {"X-Repo-Commit": repo.sha_of(revision)}
        if name not in files:
            self._refuse_with(404, "EntryNotFound", headers)
        elif repo.cdn and repo.is_lfs(name):
            entry = repo.entry(name, files[name])["lfs"]
            assert isinstance(entry, dict)
            headers |= {"X-Linked-Etag": f'"{entry["oid"]}"', "X-Linked-Size": str(entry["size"])}
            quoted = f"{kind}/{repo.repo_id}/{quote(revision, safe='')}/{quote(name)}"
            headers["Location"] = f"http://{CDN_HOST}:{self.server.server_address[1]}/cdn/{quoted}"
            self._send(302, b"", headers)
        else:
            self._send_file(repo, name, files[name], headers)

    def _answer_cdn(self, path: str) -> None:
        """A large file as the hub's other host serves it, which knows neither commits nor the hub's hashes."""
        kind, _, rest = path.partition("/")
        repo, (revision, *parts) = self._find(kind, rest)
        assert repo is not None
        name, files = "/".join(parts), repo.files_at(revision)
        assert files is not None
        self._send_file(repo, name, files[name], {"ETag": '"of the cdn"'})

    def _send_file(self, repo: Repo, name: str, content: bytes, headers: Headers) -> None:
        fault = repo.faults.get(name)
        headers = {"ETag": f'"{repo.etag(name, content)}"', "Accept-Ranges": "bytes"} | headers
        if self.command == "HEAD":
            self._send(200, content, headers)
            return
        if fault == "short":
            content = content[: len(content) // 2]
        elif fault == "damaged":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        status, part = 200, content
        requested = self.headers.get("Range")
        if requested and repo.ranges:
            first, _, last = requested.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
            if start > end:
                self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
                return
            status, part = 206, content[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.hub.count_transfer(repo, name)
        self._send_head(status, part, headers)
        self._send_body(repo, name, part)

    def _send_body(self, repo: Repo, name: str, part: bytes) -> None:
        """The part that was asked for, with the file's fault."""
        fault, half = repo.faults.get(name), len(part) // 2
        if fault == "drop-once":
            del repo.faults[name]
        if fault in ("cut", "drop-once"):
            self._write(repo, name, part[:half])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)
        elif fault == "stall":
            self._write(repo, name, part[:half])
            self.close_connection = True
            self.hub.stopped.wait(self.hub.stall_s)
        elif fault == "slow":
            step = -(-len(part) // self.hub.drips) or 1
            for start in range(0, len(part), step):
                self._write(repo, name, part[start : start + step])
                if self.hub.stopped.wait(self.hub.drip_s):
                    return
        else:
            self._write(repo, name, part)

    def _write(self, repo: Repo, name: str, content: bytes) -> None:
        # Counted first, so that the count is there when the client has the bytes.
        self.hub.count_bytes(repo, name, len(content))
        self.wfile.write(content)
        self.wfile.flush()

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Headers) -> None:
        self._send_head(status, content, headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_head(self, status: int, content: bytes, headers: Headers) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
