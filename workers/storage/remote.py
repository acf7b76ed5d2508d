"""Storages that ``fsspec`` opens by a URI; S3 is what they are made for.

An object is put by one request, which a server carries out whole or not at all, so nothing is renamed. On S3 the request
carries the content's MD5, which the server verifies, and ``create`` is a conditional request. Other file systems do what
fsspec makes of the same calls; where they know no such condition, two who create at the same moment may both succeed.

Nothing waits for ever: a request is repeated for about 20 seconds while the server does not answer or has no capacity, and a
single one waits at most 10 seconds for an answer, or longer where much is put.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import inspect
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from erasure_sweep.workers.credentials import masked
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.storage.shard_storage import (
    StorageError,
    StoredObject,
    file_errors,
    gone_error,
)
from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder

PATIENCE_S = 20.0
"""How long requests are repeated that are not answered."""
CONNECT_S, ANSWER_S = 5, 10
SLOWEST_PUT = 100_000
"""Bytes a second. A put is timed as a whole: aiohttp's own clock begins only when the server has taken all of it."""
WAITS_S = (0.2, 0.4, 0.8, 1.6, 3.2)
"""Between attempts; the last one for all further ones."""
CONCURRENCY = 16
S3_SCHEMES = ("s3://", "s3a://")

_NOT_THIS_TIME = {
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "RequestTimeout"),
    *("ConditionalRequestConflict", "OperationAborted"),
}
"""What S3 says where content was damaged on its way, or others wrote at the same moment."""
_NOT_ANSWERED = {
    *("TimeoutError", "FSTimeoutError", "ConnectionError"),
    *("HTTPClientError", "ClientConnectionError", "ClientPayloadError"),
}
"""Classes of exceptions, by name: those of botocore and aiohttp are imported only where they are used."""
_REFUSED = {
    "PermissionError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
}

T = TypeVar("T")


class RemoteStorage:
    """Objects below a URI.

    Args:
        uri: of a scheme that fsspec knows.

    Raises:
        UsageError: of another scheme, or without a bucket.
        StorageError: a package is missing that opens it.
    """

    def __init__(self, uri: str) -> None:
        self.location = uri.rstrip("/")
        self.address = masked(self.location)
        self._files, self._root = _file_system(uri)
        self._is_s3 = uri.startswith(S3_SCHEMES)

    def put(self, key: str, content: bytes) -> None:
        path = self._path(key)
        self._ask(lambda: self._put(path, content))

    def create(self, key: str, content: bytes) -> bool:
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            return self._create(self._path(key), content)

        # An attempt that was carried out, but whose answer got lost, makes the next one find what it wrote itself.
        return self._ask(attempt) or (attempts > 1 and self.get(key) == content)

    def _create(self, path: str, content: bytes) -> bool:
        try:
            if _knows_mode(self._files):
                self._put(path, content, mode="create")
                return True
        except (NotImplementedError, ValueError):
            pass
        except OSError as error:
            if isinstance(error, FileExistsError) or _code(error) == "PreconditionFailed":
                return False
            if _code(error) != "NotImplemented":
                raise
        if self._files.exists(path):
            return False
        self._put(path, content)
        return True

    def _put(self, path: str, content: bytes, **options: Any) -> None:
        """One request, with a checksum on S3."""
        if self._is_s3:
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            options |= {"ContentMD5": base64.b64encode(digest).decode(), "chunksize": 2**32}
        put = _put_coroutine(self._files)
        if put is None:
            self._files.pipe_file(path, content, **options)
            return
        from fsspec.asyn import sync

        limit_s = ANSWER_S + len(content) / SLOWEST_PUT
        sync(self._files.loop, asyncio.wait_for, put(path, content, **options), limit_s)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        options = {"max_concurrency": 1} if self._is_s3 else {}  # one request for one object
        try:
            return bytes(self._ask(lambda: self._files.cat_file(path, **options), absent_is_told=True))
        except FileNotFoundError:
            return None

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = zip(keys, self._all(self.get, keys), strict=True)
        return {key: content for key, content in found if content is not None}

    def delete(self, keys: Iterable[str]) -> None:
        for _ in self._all(self._delete, list(keys)):
            pass

    def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(self._path(key)), absent_is_told=True)

    def keys(self, prefix: str = "") -> Iterator[StoredObject]:
        folder = self._path(prefix.rpartition("/")[0]).rstrip("/")
        self._files.invalidate_cache()
        try:
            listed = self._ask(lambda: self._files.find(folder, detail=True), absent_is_told=True)
        except FileNotFoundError:
            return
        for path, about in listed.items():
            key = path.removeprefix(self._root).lstrip("/")
            if key.startswith(prefix):
                yield StoredObject(key, int(about.get("size") or 0), _modified(about))

    def sweep_up(self) -> None:
        """Objects are put by one request, so nothing is left."""

    @contextmanager
    def local(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        with closing(TemporaryFolder()) as folder:
            paths = [folder.path / str(index) for index in range(len(keys))]

            def fetch(index: int) -> None:
                content = self.get(keys[index])
                if content is None:
                    raise gone_error(self.address)
                with file_errors(paths[index]):
                    paths[index].write_bytes(content)

            for _ in self._all(fetch, range(len(keys))):
                pass
            yield paths

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _all(self, do: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
        """Do something for all items, several at a time; what fails ends it."""
        failures: list[StorageError] = []

        def attempt(item: Any) -> T:
            if failures:  # a store that does not answer is not asked for all of them
                raise failures[0]
            try:
                return do(item)
            except StorageError as error:
                failures.append(error)
                raise

        pool = ThreadPoolExecutor(CONCURRENCY)
        try:
            yield from pool.map(attempt, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is under way may take long, and nobody wants it

    def _ask(self, request: Callable[[], T], absent_is_told: bool = False) -> T:
        """Make a request, again while there is no answer.

        Args:
            absent_is_told: where there is no such object, raise ``FileNotFoundError``.
        """
        end = time.monotonic() + PATIENCE_S
        attempt = 0
        while True:
            try:
                return request()
            except Exception as error:
                if absent_is_told and isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket":
                    raise
                wait_s = WAITS_S[min(attempt, len(WAITS_S) - 1)] * random.uniform(0.5, 1)
                if not _may_pass(error) or time.monotonic() + wait_s > end:
                    raise _failure(self.address, error) from error
                time.sleep(wait_s)
                attempt += 1


def _failure(address: str, error: Exception) -> StorageError:
    """The line for a request that failed for good."""
    reason = _code(error) or type(error).__name__
    of_s3 = address.startswith(S3_SCHEMES)
    endpoint = " and AWS_ENDPOINT_URL" if of_s3 else ""
    if _is_any(error, _REFUSED):
        keys = " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or ~/.aws)" if of_s3 else ""
        said, check = f"refuses ({reason})", f"the keys{keys} and what they allow"
    elif reason == "NoSuchBucket":
        said, check = "has no such bucket", f"its name{endpoint}"
    elif _is_any(error, _NOT_ANSWERED):
        said, check = f"does not answer ({reason})", f"the network{endpoint}"
    else:
        message = masked(" ".join(str(error).split()))[:200]
        said, check = f"does not do what it is asked ({reason}: {message})", "the address"
    return StorageError(f"the store {address} {said}: check {check}, or choose another --store")


def _file_system(uri: str) -> tuple[Any, str]:
    """The file system of a URI, its own and with no memory of listings, and the path there."""
    import fsspec

    scheme = uri.partition("://")[0]
    options: dict[str, Any] = {"skip_instance_cache": True}
    if uri.startswith(S3_SCHEMES):
        waiting = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "max_pool_connections": CONCURRENCY}
        once = {"retries": {"mode": "standard", "total_max_attempts": 1}}
        options |= {"use_listings_cache": False, "config_kwargs": waiting | once}
    try:
        files, root = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        raise StorageError(f"the store {uri} {_missing(scheme, error)}") from error
    except ValueError as error:
        if not str(error).startswith("Protocol not known"):
            raise UsageError(f"--store {uri} cannot be opened: {error}") from error
        raise UsageError(
            f"--store {uri}: nothing opens {scheme}://; a folder does, s3:// and what else fsspec knows"
        ) from error
    except Exception as error:  # some connect as soon as they are made
        raise _failure(masked(uri), error) from error
    if uri.startswith(S3_SCHEMES):
        files.retries = 1  # all of them are counted in one place
        if not root.strip("/"):
            raise UsageError(f"--store {uri} names no bucket: write s3://BUCKET/PREFIX")
    return files, root.rstrip("/")


def _missing(scheme: str, error: ImportError) -> str:
    """Which package opens such addresses, and how it is installed."""
    if scheme in ("s3", "s3a"):
        return "needs the Python package s3fs: pip install 'erasure-sweep[s3]'"
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    package = (cause.name or scheme).partition(".")[0]
    return f"needs the Python package {package}: pip install {package}"


def _put_coroutine(files: Any) -> Callable[..., Any] | None:
    """The coroutine behind fsspec's ``pipe_file``, which takes a limit of time; ``None`` where there is none.

    ``_pipe_file`` is private to fsspec, and named here alone. Without it objects are put all the same, without a limit.
    """
    return getattr(files, "_pipe_file", None) if files.async_impl else None


def _knows_mode(files: Any) -> bool:
    """Whether its way to put an object can be told to create it only."""
    put = _put_coroutine(files) or files.pipe_file
    return "mode" in inspect.signature(put).parameters


def _code(error: BaseException) -> str:
    """What S3 calls the error; empty for others."""
    for raised in (error, error.__cause__):
        response = getattr(raised, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _is_any(error: BaseException, names: set[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may go well a moment later."""
    busy = isinstance(error, OSError) and error.errno in (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
    return busy or _is_any(error, _NOT_ANSWERED | {"FlexibleChecksumError"}) or _code(error) in _NOT_THIS_TIME


def _modified(about: dict[str, Any]) -> float | None:
    """When an object was written, as far as its file system says."""
    names = ("LastModified", "updated", "mtime", "last_modified", "created")
    value = next((about[name] for name in names if about.get(name) is not None), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None
