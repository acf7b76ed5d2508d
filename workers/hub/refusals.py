"""What it means that the Hugging Face hub refuses, breaks off or does not answer, and what to do about it, in one line.

Nothing here imports torch.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.printed_commands import quoted


class HubRequest(NamedTuple):
    """What the hub is asked for, as errors say it."""

    repo: str
    revision: str | None
    file: str | None
    """``None`` for the list of files."""
    files: tuple[str, ...] = ()
    """All files that the caller needs."""

    def __str__(self) -> str:
        return f"{self.file or 'the list of files'} of {self.repo}"

    @property
    def remedy(self) -> str:
        """What to do where the hub is out of reach. A commit's number is left out: main leads to it."""
        from huggingface_hub import constants

        if self.file is None:
            return "run `erasure-sweep fetch` where there is a network and give the folder it fills as --staging DIR"
        named = self.revision is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision)
        command = ["hf", "download", self.repo, *self.files, *(["--revision", str(self.revision)] if named else [])]
        cache = constants.HF_HUB_CACHE
        return f"stage it where there is a network (`{quoted(*command)}`) and copy it to {cache}, or give --model DIR"


@contextmanager
def hub_errors(request: HubRequest) -> Iterator[None]:
    """Whatever the hub answers but success, or that it does not answer, as a DataError."""
    # Errors of connections are httpx's or httpx2's, whichever huggingface_hub is built on: it hands on their base.
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError) as error:
        raise _refusal(request, error) from error
    except HFValidationError as error:
        raise DataError(f"{request}: no repository can have this name ({one_line(error)})") from error


@contextmanager
def transfer_errors(request: HubRequest, cache: Path) -> Iterator[None]:
    """What ends a transfer that had begun, as a DataError; refusals of the hub pass, to be read by ``hub_errors``.

    Args:
        request: the file.
        cache: the Hugging Face cache that it goes to.
    """
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
    )

    try:
        yield
    except LocalEntryNotFoundError as error:  # the hub was asked once more, and this is why it did not answer
        raise error.__cause__ or error from None
    except HfHubHTTPError:
        raise
    except OSError as error:
        if error.errno is None:  # huggingface_hub's own: what came is not as long as it should be
            raise broke_off(request, "the hub sends less than it says") from error
        raise _cache_error(request, cache, error) from error
    except HTTPError as error:
        raise broke_off(request, _connection_error(error)) from error
    except (RuntimeError, ValueError) as error:  # of hf_xet, or a file that cannot be had without it
        raise broke_off(request, one_line(error)) from error


def no_room(request: HubRequest, cache: Path, size: int | None) -> DataError:
    """The error of a disk that is too full for a file of ``size`` bytes."""
    shown = f" ({size / 1e6:.1f} MB)" if size is not None else ""
    return DataError(
        f"no room on disk for {request}{shown} in the Hugging Face cache {cache}: make room, or set HF_HOME"
    )


def not_a_hub(request: HubRequest) -> DataError:
    """The error of a server that answers, but not as a hub does."""
    from huggingface_hub import constants

    return DataError(f"{constants.ENDPOINT} does not answer as a Hugging Face hub for {request}: check HF_ENDPOINT")


def broke_off(request: HubRequest, reason: str) -> DataError:
    """The error of a transfer that did not come to its end."""
    return DataError(f"the download of {request} broke off: run again ({reason})")


def _cache_error(request: HubRequest, cache: Path, error: OSError) -> DataError:
    if error.errno == errno.ENOSPC:
        return no_room(request, cache, None)
    reason = error.strerror or one_line(error)
    return DataError(
        f"{request} cannot be written to the Hugging Face cache {cache} ({reason}): set HF_HOME to another folder"
    )


def _connection_error(error: Exception) -> str:
    """Why a connection ended."""
    from huggingface_hub import constants

    if any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__):
        limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
        return f"nothing came for {limit} s, the limit that HF_HUB_DOWNLOAD_TIMEOUT sets"
    return one_line(error)


def _refusal(request: HubRequest, error: Exception) -> DataError:
    """What a request that failed means, and what to do about it."""
    from huggingface_hub import constants, errors

    hub, repo, remedy = constants.ENDPOINT, request.repo, request.remedy
    revision = request.revision or constants.DEFAULT_REVISION
    meanings = {
        errors.GatedRepoError: f"{repo} is gated: accept its terms on {hub}/{repo}, then `hf auth login`",
        errors.RepositoryNotFoundError: (
            f"{hub} has no repository {repo}, or it is private: check the name, or `hf auth login`"
        ),
        errors.RevisionNotFoundError: f"{repo} on {hub} has no revision {revision}",
        errors.EntryNotFoundError: f"{repo} on {hub} holds no {request.file}",
        errors.OfflineModeIsEnabled: f"{request} is not in the Hugging Face cache and HF_HUB_OFFLINE is set: {remedy}",
    }
    for kind, message in meanings.items():
        # the hub that fell silent before the cache had the file is one of these, and no answer
        if isinstance(error, kind) and not isinstance(error, errors.LocalEntryNotFoundError):
            return DataError(message)
    if isinstance(error, errors.HfHubHTTPError):
        return DataError(f"{hub} answers {error.response.status_code} for {request}: try later, or {remedy}")
    return DataError(f"{hub} cannot be reached for {request} ({one_line(error)}): {remedy}")
