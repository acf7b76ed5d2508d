"""A loopback stand-in for the Hugging Face hub: what huggingface_hub and datasets ask of it, and its failures.

    with Hub() as hub:
        repo = hub.add_model("NeelNanda/GELU_1L512W_C4_Code", tl_directory)
        repo.revisions["step100"] = repo.files | {"model_final.pth": earlier}
        subprocess.run(..., env=os.environ | hub.environment(cache))
        hub.served[repo.repo_id, "model_final.pth"]  # Served(bytes=…, transfers=1)

``environment`` is for subprocesses, because huggingface_hub reads its variables when it is imported; ``use_in_process``
patches the module instead. A repository's ``status`` decides whether it is served, its ``faults`` how its files are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erasure_sweep.workers.errors import DataError
from tests.support.servers.hub_server import HubServer
from tests.support.waiting import sleeping_at_most

MESSAGE_LIMIT_S = 30
"""Between retries: nobody is to wait for minutes for a refusal."""

Fault = Literal["cut", "drop-once", "short", "damaged", "slow", "stall"]
Status = Literal["open", "gated", "private", "broken"]

LFS_SUFFIXES = (".pth", ".safetensors", ".bin", ".parquet")
"""Files that the hub keeps beside git and knows by the sha256 of their content; others by git's own hash."""


class Served(NamedTuple):
    """How much of a file went out, over all revisions."""

    bytes: int = 0
    transfers: int = 0
    """Answers with a body, whole or a range; a question for the headers alone is none."""


@dataclass
class Repo:
    """A repository: its files, and how it is served."""

    repo_id: str
    kind: Literal["models", "datasets"]
    files: dict[str, bytes] = field(default_factory=dict)
    """Of the branch main."""
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Further branches and tags by name, each with all of its files."""
    status: Status = "open"
    faults: dict[str, Fault] = field(default_factory=dict)
    """By file. ``cut``: the connection closes halfway, each time; ``drop-once``: only the first time; ``short``: half
    the file is served as the whole; ``damaged``: right in length, one byte flipped; ``slow``: it drips; ``stall``: half
    of it, then silence."""
    cdn: bool = False
    """Whether large files are handed on to another host, as the real hub does."""
    ranges: bool = True
    """Whether a request for the rest of a file is given the rest, not the whole."""

    @property
    def sha(self) -> str:
        """The commit that main points to."""
        return self.sha_of("main")

    def sha_of(self, revision: str) -> str:
        """A commit hash that follows the content of a branch or tag; a commit's own is itself."""
        files = self.files if revision == "main" else self.revisions.get(revision)
        if files is None:
            return revision
        digest = hashlib.sha1(self.repo_id.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def files_at(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch, a tag or a commit; ``None`` where there is no such revision."""
        branches = {"main": self.files} | self.revisions
        commits = {self.sha_of(name): files for name, files in branches.items()}
        return (commits | branches).get(revision)

    def info(self, revision: str = "main", with_sizes: bool = False) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for name, content in sorted((self.files_at(revision) or {}).items()):
            entry = self.entry(name, content)
            sizes = {"size": entry["size"], "blobId": entry["oid"]} if with_sizes else {}
            if with_sizes and "lfs" in entry:
                sizes["lfs"] = {"sha256": etag(name, content), "size": len(content), "pointerSize": 130}
            siblings.append({"rfilename": name} | sizes)
        return {"id": self.repo_id, "sha": self.sha_of(revision), "siblings": siblings, "private": False, "tags": []}

    def tree(self, files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, object]]:
        """Files below a folder and the folders between, as the hub lists them."""
        prefix = f"{folder}/" if folder else ""
        names = [name for name in sorted(files) if name.startswith(prefix)]
        folders = {str(parent) for name in names for parent in Path(name).parents}
        folders = {path for path in folders if path != "." and path.startswith(prefix)}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        entries += [self.entry(name, files[name]) for name in names]
        return [entry for entry in entries if recursive or "/" not in str(entry["path"]).removeprefix(prefix)]

    def entry(self, name: str, content: bytes) -> dict[str, object]:
        """One file of a listing."""
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content)}
        if not self.is_lfs(name):
            return entry | {"oid": git_hash(content)}
        lfs = {"oid": etag(name, content), "size": len(content), "pointerSize": 130}
        return entry | {"oid": git_hash(_pointer(content)), "lfs": lfs}

    def is_lfs(self, name: str) -> bool:
        return name.endswith(LFS_SUFFIXES)

    def etag(self, name: str, content: bytes) -> str:
        return etag(name, content)


def etag(name: str, content: bytes) -> str:
    """What the hub says of a file's content: sha256 of large files, git's hash of small ones."""
    return hashlib.sha256(content).hexdigest() if name.endswith(LFS_SUFFIXES) else git_hash(content)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _pointer(content: bytes) -> bytes:
    """The text that git holds in the place of a large file."""
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


class Hub:
    """The server, on a free loopback port, for as long as the context lasts."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.authorized: list[tuple[str, str]] = []
        """Host and header of every request that carried a token."""
        self.served: defaultdict[tuple[str, str], Served] = defaultdict(Served)
        """By repository and file."""
        self.connections: list[socket.socket] = []
        self.drips, self.drip_s = 12, 0.25
        """A slow file comes in so many parts, with so many seconds after each."""
        self.stall_s = 120.0
        self.stopped = threading.Event()
        self._counting = threading.Lock()
        self._server = HubServer(self)
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
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def count_transfer(self, repo: Repo, name: str) -> None:
        with self._counting:
            total, transfers = self.served[repo.repo_id, name]
            self.served[repo.repo_id, name] = Served(total, transfers + 1)

    def count_bytes(self, repo: Repo, name: str, n_bytes: int) -> None:
        with self._counting:
            total, transfers = self.served[repo.repo_id, name]
            self.served[repo.repo_id, name] = Served(total + n_bytes, transfers)

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
            "NO_PROXY": "127.0.0.1,localhost",
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
        """Serve a model's directory and the folders in it, files renamed where ``rename`` says so."""
        names = rename or {}
        paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        return self.add("models", repo_id, {names.get(name, name): path.read_bytes() for name, path in paths.items()})

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


def refused_soon(ask: Callable[[], object]) -> str:
    """The one line with which a request to a hub is refused."""
    with pytest.raises(DataError) as caught, sleeping_at_most(MESSAGE_LIMIT_S):
        ask()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_environment(hub: Hub, cache: Path, offline: bool = False) -> dict[str, str]:
    """This process' environment with the hub's variables, for ``subprocess.run(env=…)``."""
    return os.environ | hub.environment(cache, offline)
