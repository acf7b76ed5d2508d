"""One file of the Hugging Face hub → the Hugging Face cache: resumed where it broke off, checked before it counts.

``hf_hub_download`` deletes what it has when a transfer breaks off, and trusts whatever arrives in the right length. So
the body is fetched here, into the cache's own layout (``blobs`` by hash, ``snapshots`` and ``refs`` that point there),
and all else that uses the cache finds it:

1. Under the lock that huggingface_hub takes for the same file, so that one process fetches it and others wait.
2. Into ``blobs/HASH.incomplete``, which stays when the transfer or the process ends early; the next asks for the rest.
   Where locks do not hold (some network file systems), two processes write the same bytes to the same places.
   A connection that brings nothing for HF_HUB_DOWNLOAD_TIMEOUT seconds (huggingface_hub's variable, 10 unless set) is
   given up; one that is slow is not.
3. Size and hash are compared with what the hub says, then the file is renamed into place.

Nothing here imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from erasure_sweep.workers.errors import DataError

ATTEMPTS = 3
"""A transfer is given up after so many attempts in a row that brought nearly nothing."""
WORTHWHILE_BYTES = 1 << 20
RETRY_PAUSE_S = 1.0
ERROR_LINE_LENGTH = 200

SHORT = "the hub sends less than it says"
_TRANSIENT_STATUSES = (408, 416, 425, 429)
_LOG = logging.getLogger(__name__)


class RemoteFile(NamedTuple):
    """A file as the hub describes it."""

    repo: str
    file: str
    commit: str
    etag: str
    """sha256 of a large file, git's hash of a small one; on a mirror it may be something else, which is not checked."""
    size: int | None
    """Bytes; ``None`` where the hub does not say."""

    def __str__(self) -> str:
        return f"{self.file} of {self.repo}"


def fetch(remote: RemoteFile, revision: str | None) -> Path:
    """The file's place in the cache, fetched unless its content is there.

    Args:
        remote: what the hub says of the file.
        revision: the branch or tag it was asked by, noted so that it is found by the same name without the hub.

    Raises:
        DataError: the transfer broke off or came damaged, or the cache cannot be written to.
        huggingface_hub.errors.HfHubHTTPError: the hub refuses the file.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=remote.repo, repo_type="model")
    pointer = cache / folder / "snapshots" / remote.commit / remote.file
    blob = cache / folder / "blobs" / remote.etag
    lock = cache / ".locks" / folder / f"{remote.etag}.lock"
    with _said_of_cache(remote, cache):
        for path in (pointer, blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not _is_whole(pointer, remote):
                if not _is_whole(blob, remote):
                    _download(remote, blob)
                _point(pointer, blob)
        _note_revision(cache / folder / "refs" / (revision or constants.DEFAULT_REVISION), remote.commit)
    return pointer


def _is_whole(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and remote.size in (None, path.stat().st_size)


@contextmanager
def _said_of_cache(remote: RemoteFile, cache: Path) -> Iterator[None]:
    """Errors of the file system, in one line; refusals of the hub, which are OSErrors too, pass."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        if error.errno == errno.ENOSPC:
            raise DataError(_no_room(remote, cache)) from error
        raise DataError(
            f"{remote} cannot be written to the Hugging Face cache {cache} ({reason}): set HF_HOME to another folder"
        ) from error


def _no_room(remote: RemoteFile, cache: Path) -> str:
    size = f" ({remote.size / 1e6:.1f} MB)" if remote.size is not None else ""
    return f"no room on disk for {remote}{size} in the Hugging Face cache {cache}: make room, or set HF_HOME"


def _download(remote: RemoteFile, blob: Path) -> None:
    """Fetch what is missing of a file, check the whole, and put it in its place."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    held = partial.stat().st_size if partial.is_file() else 0
    if remote.size is None or held > remote.size:
        partial.unlink(missing_ok=True)
        held = 0
    if remote.size is not None and shutil.disk_usage(blob.parent).free < remote.size - held:
        raise DataError(_no_room(remote, blob.parents[2]))
    size, since = (remote.size or 0) / 1e6, f", from {held / 1e6:.1f} on" if held else ""
    _LOG.info("fetching %s (%.1f MB%s)", remote, size, since)
    partial.touch()
    _transfer(remote, partial)
    _check(remote, partial)
    partial.replace(blob)


def _transfer(remote: RemoteFile, partial: Path) -> None:
    """Receive until the file is whole, however often the connection ends, as long as each brings something."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    fruitless = 0
    shown: dict[str, Any] = {"desc": remote.file[-40:], "total": remote.size, "unit": "B", "unit_scale": True}
    # disable=None: nothing is drawn where stderr is no terminal.
    with tqdm(**shown, disable=None) as bar:  # type: ignore[no-untyped-call]
        while (held := partial.stat().st_size) != remote.size:
            try:
                _receive(remote, partial, held, bar)
                if remote.size is None or partial.stat().st_size >= remote.size:
                    return
                reason = SHORT
            except HfHubHTTPError as error:
                if error.response.status_code < 500 and error.response.status_code not in _TRANSIENT_STATUSES:
                    raise
                reason = SHORT if error.response.status_code == 416 else one_line(error)
            except HTTPError as error:
                reason = _reason(error)
            came = partial.stat().st_size
            fruitless = fruitless + 1 if came - held < WORTHWHILE_BYTES else 0
            if fruitless == ATTEMPTS:
                kept = f"{came:,} bytes" if remote.size is None else f"{came:,} of {remote.size:,} bytes"
                raise DataError(f"the download of {remote} broke off: run again ({reason}; {kept} are kept)")
            time.sleep(RETRY_PAUSE_S * fruitless)


def _receive(remote: RemoteFile, partial: Path, held: int, bar: Any) -> None:
    """One request for what is missing, written as it comes."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(remote.repo, remote.file, revision=remote.commit)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with (
        get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
        partial.open("r+b", buffering=0) as file,
    ):
        hf_raise_for_status(response)
        position = held if response.status_code == 206 else 0
        file.seek(position)
        for chunk in response.iter_bytes():
            file.write(chunk)
            position += len(chunk)
            bar.update(position - bar.n)
            if remote.size is not None and position > remote.size:
                break
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    """Why a connection ended. Errors of connections are httpx's or httpx2's, whichever huggingface_hub is built on."""
    from huggingface_hub import constants

    if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        return f"nothing came for {limit} s, the limit that HF_HUB_DOWNLOAD_TIMEOUT sets"
    return one_line(error)


def _check(remote: RemoteFile, partial: Path) -> None:
    """Delete a file that is not what the hub says it is.

    Raises:
        DataError: it was not.
    """
    size, found = partial.stat().st_size, content_hash(partial, remote.etag)
    damage = ""
    if remote.size is not None and size != remote.size:
        damage = f"it has {size} bytes, the hub says {remote.size}"
    elif found is not None and found != remote.etag:
        damage = f"its hash is {found[:12]}…, the hub says {remote.etag[:12]}…"
    if damage:
        partial.unlink()
        raise DataError(f"the download of {remote} came damaged ({damage}): run again")


def content_hash(path: Path, etag: str) -> str | None:
    """A file's hash of the kind that ``etag`` is: sha256, git's hash of a blob, or ``None`` for any other kind."""
    with path.open("rb") as file:
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch(r"[0-9a-f]{40}", etag):
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            return hashlib.file_digest(file, lambda: digest).hexdigest()
    return None


def _point(pointer: Path, blob: Path) -> None:
    """Let a snapshot's file lead to the content; where there are no symbolic links, it becomes the content."""
    temporary = pointer.with_name(f".{pointer.name}.{uuid4().hex}")
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        temporary = blob
    temporary.replace(pointer)


def _note_revision(ref: Path, commit: str) -> None:
    """Write down which commit a branch or tag is; a commit's own name needs no note."""
    if ref.name == commit or (ref.is_file() and ref.read_text(encoding="utf-8") == commit):
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    temporary = ref.with_name(f".{ref.name}.{uuid4().hex}")
    temporary.write_text(commit, encoding="utf-8")
    temporary.replace(ref)


def one_line(error: Exception, limit: int = ERROR_LINE_LENGTH) -> str:
    """An error's first line, with its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:limit] if lines else type(error).__name__
