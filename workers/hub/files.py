"""Files of the Hugging Face hub: from its cache or else fetched, and what a refusal means, in one line.

What the cache holds is used as it is, without asking the hub. Each question to the hub is one request with a short
limit. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.hub.transfer import RemoteFile, fetch, one_line

__all__ = ["PROBE_TIMEOUT_S", "check_hub", "hub_file", "list_files", "one_line", "quiet_hub"]

PROBE_TIMEOUT_S = 10.0


class _Asked(NamedTuple):
    """What the hub is asked for, as errors say it."""

    repo: str
    revision: str | None
    file: str | None
    """``None`` for the list of files."""
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file or 'the list of files'} of {self.repo}"

    @property
    def remedy(self) -> str:
        """What to do where the hub is out of reach. A commit's number is left out: main leads to it."""
        from huggingface_hub import constants

        if self.file is None:
            return "run `erasure-sweep fetch` where there is a network and give the folder it fills as --staging DIR"
        named = self.revision is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision)
        command = ["hf download", self.repo, *self.files, *(["--revision", str(self.revision)] if named else [])]
        cache = constants.HF_HUB_CACHE
        return f"stage it where there is a network (`{' '.join(command)}`) and copy it to {cache}, or give --model DIR"


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
            broke off (the next call goes on from there) or came damaged.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"{repo} names a file outside of itself: {file}")
    asked = _Asked(repo, revision, file, files)
    with _one_refusal(asked):
        cached = None if refresh else try_to_load_from_cache(repo, file, revision=revision)
        return Path(cached) if isinstance(cached, str) else fetch(_ask(asked, file), revision)


def list_files(repo: str, revision: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The commit that a revision of a repository is, and the paths of all its files.

    Asks the hub each time: the cache holds no listings.

    Raises:
        DataError: the hub has no such repository or revision, refuses it, cannot be reached or may not be asked.
    """
    from huggingface_hub import HfApi, constants

    asked = _Asked(repo, revision, None)
    with _one_refusal(asked), quiet_hub():
        try:
            info = HfApi(endpoint=constants.ENDPOINT).model_info(repo, revision=revision, timeout=PROBE_TIMEOUT_S)
        except (JSONDecodeError, KeyError, TypeError) as error:
            raise _not_a_hub(asked) from error
    if not info.sha or info.siblings is None:
        raise _not_a_hub(asked)
    return info.sha, tuple(sorted(sibling.rfilename for sibling in info.siblings))


def check_hub(repo: str, file: str, revision: str | None = None) -> int:
    """The size in bytes that a download of a file would have, asked of the hub whatever the cache holds.

    Raises:
        DataError: it could not be downloaded, with the reason.
    """
    asked = _Asked(repo, revision, file, (file,))
    with _one_refusal(asked):
        size = _ask(asked, file).size
    if size is None:
        raise _not_a_hub(asked)
    return size


def _ask(asked: _Asked, file: str) -> RemoteFile:
    """What the hub says of a file, from one request for its headers."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with quiet_hub():
        found = get_hf_file_metadata(hf_hub_url(asked.repo, file, revision=asked.revision), timeout=PROBE_TIMEOUT_S)
    commit, etag = found.commit_hash or "", found.etag or ""
    if not re.fullmatch(r"\w+", commit) or not re.fullmatch(r"\w[\w.-]*", etag):
        raise _not_a_hub(asked)
    return RemoteFile(asked.repo, file, commit, etag, found.size)


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings off the terminal, and its progress bars out of what is no terminal."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

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


@contextmanager
def _one_refusal(asked: _Asked) -> Iterator[None]:
    """Whatever the hub answers but success, or that it does not answer, as a DataError."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError) as error:
        raise _refusal(asked, error) from error
    except HFValidationError as error:
        raise DataError(f"{asked}: no repository can have this name ({one_line(error)})") from error


def _refusal(asked: _Asked, error: Exception) -> DataError:
    """What a request that failed means, and what to do about it."""
    from huggingface_hub import constants, errors

    hub, repo, remedy = constants.ENDPOINT, asked.repo, asked.remedy
    revision = asked.revision or constants.DEFAULT_REVISION
    meanings = {
        errors.GatedRepoError: f"{repo} is gated: accept its terms on {hub}/{repo}, then `hf auth login`",
        errors.RepositoryNotFoundError: (
            f"{hub} has no repository {repo}, or it is private: check the name, or `hf auth login`"
        ),
        errors.RevisionNotFoundError: f"{repo} on {hub} has no revision {revision}",
        errors.EntryNotFoundError: f"{repo} on {hub} holds no {asked.file}",
        errors.OfflineModeIsEnabled: (f"{asked} is not in the Hugging Face cache and HF_HUB_OFFLINE is set: {remedy}"),
    }
    for kind, message in meanings.items():
        if isinstance(error, kind):
            return DataError(message)
    if isinstance(error, errors.HfHubHTTPError):
        return DataError(f"{hub} answers {error.response.status_code} for {asked}: try later, or {remedy}")
    return DataError(f"{hub} cannot be reached for {asked} ({one_line(error)}): {remedy}")


def _not_a_hub(asked: _Asked) -> DataError:
    from huggingface_hub import constants

    return DataError(f"{constants.ENDPOINT} does not answer as a Hugging Face hub for {asked}: check HF_ENDPOINT")
