"""Files of the Hugging Face hub: from its cache, or else downloaded by huggingface_hub and checked.

What the cache holds is used as it is, without asking the hub. Each question to the hub is one request with a short limit.
A transfer that breaks off is resumed within one call; the next call begins anew, because a partial file that several
processes share is how caches were damaged. The content's hash is compared with the hub's after the download: only a process
that is killed between the two leaves a file that nobody checked. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.hub.refusals import HubRequest, broke_off, hub_errors, no_room, not_a_hub, transfer_errors

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0


class RemoteFile(NamedTuple):
    """A file as the hub describes it."""

    commit: str
    etag: str
    """sha256 of a large file, git's hash of a small one; on a mirror it may be something else, which is not checked."""
    size: int | None
    """Bytes; ``None`` where the hub does not say."""


def hub_file(
    repo: str, file: str, files: tuple[str, ...], revision: str | None = None, *, refresh: bool = False
) -> Path:
    """One file of a repository, from the cache or else from the hub.

    Args:
        repo: ``OWNER/NAME``, or the name of a repository without owner.
        file: its path in the repository.
        files: all files that the caller needs, to say in an error what to stage.
        revision: branch, tag or commit; ``None`` for main.
        refresh: ask the hub whether the branch or tag has moved on, whatever the cache holds.

    Returns:
        Its path in the cache's snapshot of the revision's commit; the path ends in ``COMMIT/file``.

    Raises:
        DataError: the hub has no such repository, revision or file, refuses it or cannot be reached; or the download
            broke off or came damaged.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"{repo} names a file outside of itself: {file}")
    request = HubRequest(repo, revision, file, files)
    with hub_errors(request):
        cached = None if refresh else try_to_load_from_cache(repo, file, revision=revision)
        return Path(cached) if isinstance(cached, str) else _download(request, file, _ask(request, file))


def list_files(repo: str, revision: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The commit that a revision of a repository is, and the paths of all its files.

    Asks the hub each time: the cache holds no listings.

    Raises:
        DataError: the hub has no such repository or revision, refuses it, cannot be reached or may not be asked.
    """
    from huggingface_hub import HfApi, constants

    request = HubRequest(repo, revision, None)
    with hub_errors(request), quiet_hub():
        try:
            info = HfApi(endpoint=constants.ENDPOINT).model_info(repo, revision=revision, timeout=PROBE_TIMEOUT_S)
        except (JSONDecodeError, KeyError, TypeError) as error:
            raise not_a_hub(request) from error
    if not info.sha or info.siblings is None:
        raise not_a_hub(request)
    return info.sha, tuple(sorted(sibling.rfilename for sibling in info.siblings))


def check_hub(repo: str, file: str, revision: str | None = None) -> int:
    """The size in bytes that a download of a file would have, asked of the hub whatever the cache holds.

    Raises:
        DataError: it could not be downloaded, with the reason.
    """
    request = HubRequest(repo, revision, file, (file,))
    with hub_errors(request):
        size = _ask(request, file).size
    if size is None:
        raise not_a_hub(request)
    return size


def content_hash(path: Path, etag: str) -> str | None:
    """A file's hash of the kind that ``etag`` is: sha256, git's hash of a blob, or ``None`` for any other kind."""
    with path.open("rb") as file:
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch(r"[0-9a-f]{40}", etag):
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            return hashlib.file_digest(file, lambda: digest).hexdigest()
    return None


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings off the terminal, and its progress bars out of what is no terminal."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, though not declared
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    had_bars, disabled = not are_progress_bars_disabled() and not sys.stderr.isatty(), logging.root.manager.disable
    if had_bars:
        disable_progress_bars()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if had_bars:
            enable_progress_bars()


def _ask(request: HubRequest, file: str) -> RemoteFile:
    """What the hub says of a file, from one request for its headers."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with quiet_hub():
        url = hf_hub_url(request.repo, file, revision=request.revision)
        metadata = get_hf_file_metadata(url, timeout=PROBE_TIMEOUT_S)
    commit, etag = metadata.commit_hash or "", metadata.etag or ""
    if not re.fullmatch(r"\w+", commit) or not re.fullmatch(r"\w[\w.-]*", etag):
        raise not_a_hub(request)
    return RemoteFile(commit, etag, metadata.size)


def _download(request: HubRequest, file: str, remote: RemoteFile) -> Path:
    """Let huggingface_hub put a file into its cache, and see that it is what the hub says."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    with transfer_errors(request, cache):
        cache.mkdir(parents=True, exist_ok=True)
        held = (cache / repo_folder_name(repo_id=request.repo, repo_type="model") / "blobs" / remote.etag).exists()
        # huggingface_hub would only warn, and fill the disk
        if remote.size is not None and not held and shutil.disk_usage(cache).free < remote.size:
            raise no_room(request, cache, remote.size)
        log.info("fetching %s (%s)", request, "unknown size" if remote.size is None else f"{remote.size / 1e6:.1f} MB")
        with quiet_hub():
            path = Path(hf_hub_download(request.repo, file, revision=request.revision, etag_timeout=PROBE_TIMEOUT_S))
    # By name, so that the name is found in the cache offline. What it leads to may be another commit's by now: a branch
    # that moved, or the cache's own where the hub fell silent. That file is not the one asked about, and stays.
    if remote.commit not in path.parts:
        raise broke_off(request, f"the hub was to give commit {remote.commit[:12]} and the cache has another")
    actual = content_hash(path, remote.etag)
    if actual is not None and actual != remote.etag:
        path.resolve().unlink()  # the blob, to which the snapshot's file leads where there are symbolic links
        path.unlink(missing_ok=True)
        raise DataError(
            f"the download of {request} came damaged (its hash is {actual[:12]}…, the hub says {remote.etag[:12]}…): "
            "run again"
        )
    return path
