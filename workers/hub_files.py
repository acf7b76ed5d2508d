"""Files of the Hugging Face hub: from its cache or else fetched, and what a refusal means, in one line.

What the cache holds is used as it is, without asking the hub. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.errors import DataError

PROBE_TIMEOUT_S = 10.0

_LOG = logging.getLogger(__name__)


def hub_file(repo: str, file: str, files: tuple[str, ...], revision: str | None = None) -> Path:
    """One file of a repository, from the cache or else from the hub.

    ``hf_hub_download`` tries a hub that does not answer for minutes, so one request with a short limit goes before it.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    cached = try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        found = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=PROBE_TIMEOUT_S)
    except (HTTPError, OSError) as error:
        raise _refusal(repo, file, files, error) from error
    _LOG.info("fetching %s of %s (%.1f MB)", file, repo, (found.size or 0) / 1e6)
    try:
        with quiet_hub():
            return Path(hf_hub_download(repo, file, revision=revision))
    # The transfer may end in errors of three libraries (HTTP client, file system, Xet); all of them mean the same here.
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DataError(f"no room on disk for {file} of {repo} in the Hugging Face cache") from error
        raise DataError(f"the download of {file} of {repo} broke off: run again ({one_line(error)})") from error


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's progress bars and warnings of retries off the terminal."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars, disabled = not are_progress_bars_disabled(), logging.root.manager.disable
    disable_progress_bars()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if had_bars:
            enable_progress_bars()


def _refusal(repo: str, file: str, files: tuple[str, ...], error: Exception) -> DataError:
    """What a first request that failed means, and what to do about it."""
    from huggingface_hub import constants, errors

    hub, where = constants.ENDPOINT, f"{file} of {repo}"
    if isinstance(error, errors.GatedRepoError):
        return DataError(f"{repo} is gated: accept its terms on {hub}/{repo}, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"{hub} has no repository {repo}, or it is private: check the name, or `hf auth login`")
    if isinstance(error, errors.EntryNotFoundError | errors.RevisionNotFoundError):
        return DataError(f"{repo} on {hub} holds no {file}")
    remedy = (
        f"stage it where there is a network (`hf download {repo} {' '.join(files)}`) and copy it to "
        f"{constants.HF_HUB_CACHE}, or give --model DIR"
    )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DataError(f"{where} is not in the Hugging Face cache and HF_HUB_OFFLINE is set: {remedy}")
    if isinstance(error, errors.HfHubHTTPError):
        return DataError(f"{hub} answers {error.response.status_code} for {where}: try later, or {remedy}")
    return DataError(f"{hub} cannot be reached for {where} ({one_line(error)}): {remedy}")


def one_line(error: Exception, limit: int = 200) -> str:
    """An error's first line, with its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:limit] if lines else type(error).__name__
