"""Where finished shards are kept: a folder, or whatever ``fsspec`` opens by a URI, S3 above all.

A storage holds whole objects by keys such as ``ab/abcd….state``. What is put there is whole or absent, whatever ends the
process that puts it; ``create`` lets one of several succeed. Every failure is one line that says what to do.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from erasure_sweep.workers.credentials import masked, note
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.records import SharedStore
from erasure_sweep.workers.storage.whole_file import TEMPORARY, create_whole, remove_left, whole_file, write_error

log = logging.getLogger(__name__)

NUMERICS = "numerics.json"
"""Key of what says with which numerics the shards of a sweep were measured."""

MARK = "mark"
"""Key of what tells a driver's store from another machine's folder of the same name."""


class StorageError(SweepError):
    """The storage cannot be reached, refuses, or lacks what should be there."""


class StoredObject(NamedTuple):
    """One object of a storage."""

    key: str
    size: int
    """Bytes."""
    modified: float | None
    """When it was written, in seconds since 1970 by the storage's own clock; ``None`` where it does not say."""


@runtime_checkable
class Storage(Protocol):
    """Whole objects by key. Every method raises ``StorageError`` where the storage does not do what it is asked."""

    address: str
    """As people are shown it: without a password; folders are absolute."""
    location: str
    """As ``open_storage`` opens it again, in other processes too; never shown."""

    def put(self, key: str, content: bytes) -> None:
        """Keep an object, in place of an earlier one: whole, or not at all."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Keep an object where there is none of this key; of several who try, one is told that it did."""
        ...

    def get(self, key: str) -> bytes | None:
        """An object, or ``None`` where there is none."""
        ...

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Those of the objects that are there."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, whether or not they are there."""
        ...

    def keys(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects whose keys begin so, however deep, in no order."""
        ...

    def sweep_up(self) -> None:
        """Remove what processes that were killed left half-written; only where nobody else writes."""
        ...

    def local(self, keys: Sequence[str]) -> AbstractContextManager[list[Path]]:
        """Files of these objects, to be read before the context ends: the storage's own, or copies that are then removed."""
        ...


class FolderStorage:
    """A folder; it is made when the first object is put.

    Args:
        folder: may be relative or begin with ``~``.
    """

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder).expanduser().absolute()
        self.address = self.location = str(self._root)

    def put(self, key: str, content: bytes) -> None:
        path = self._root / key
        with file_errors(path), whole_file(path) as temporary:
            temporary.write_bytes(content)

    def create(self, key: str, content: bytes) -> bool:
        path = self._root / key
        with file_errors(path):
            return create_whole(path, content)

    def get(self, key: str) -> bytes | None:
        path = self._root / key
        with file_errors(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = ((key, self.get(key)) for key in keys)
        return {key: content for key, content in found if content is not None}

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._root / key
            with file_errors(path):
                path.unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[StoredObject]:
        with file_errors(self._root):
            for folder, _, names in os.walk(self._root / prefix.rpartition("/")[0], onerror=_raise_unless_missing):
                for path in (Path(folder, name) for name in names if not _is_half_written(name)):
                    key = path.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and (entry := _entry(key, path)):
                        yield entry

    def sweep_up(self) -> None:
        for folder, _, _ in os.walk(self._root):
            remove_left(Path(folder))

    @contextmanager
    def local(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        paths = [self._root / key for key in keys]
        if not all(path.exists() for path in paths):
            raise gone_error(self.address)
        yield paths


def open_storage(address: str | Path) -> Storage:
    """The storage at an address, which need not exist yet; nothing is asked of it.

    Args:
        address: a folder, ``file://…``, or any URI that fsspec knows (``s3://BUCKET/PREFIX``).

    Raises:
        UsageError: nothing opens addresses of that scheme.
        StorageError: a package is missing that does.
    """
    scheme, separator, path = str(address).partition("://")
    note(str(address))
    if isinstance(address, Path) or not separator:
        return FolderStorage(address)
    if scheme in ("file", "local"):
        return FolderStorage(path)
    from erasure_sweep.workers.storage.remote import RemoteStorage

    return RemoteStorage(address)


def find_shared(shared: SharedStore) -> Storage | None:
    """The driver's store as this process sees it; ``None`` where it does not.

    Another machine has a folder of the same name, other credentials, no way there or not the package for it: all of that
    is no error, since the driver can put what it is given.
    """
    try:
        storage = open_storage(shared.location)
        return storage if storage.get(MARK) == shared.mark.encode() else None
    except Exception as error:  # noqa: BLE001 whatever it is, the driver's way remains
        log.info("%s is not used from here: %s", masked(shared.location), error)
        return None


STATE_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}\.state")
"""What ``state_key`` makes."""


def state_key(shard_id: str) -> str:
    """Where the state of a shard stands: spread over 256 folders."""
    return f"{shard_id[:2]}/{shard_id}.state"


def shard_of(key: str) -> str:
    """The shard whose state stands there."""
    return key.rpartition("/")[2].removesuffix(".state")


def joined(address: str, *parts: str) -> str:
    """The address of something below another."""
    return "/".join((address.rstrip("/"), *parts)) if address.strip("/") else "/" + "/".join(parts)


def gone_error(address: str) -> StorageError:
    """The line for objects that were there when they were last looked for."""
    return StorageError(f"finished shards are gone from {address}: run again, and they are measured anew")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with a file in the words of its users."""
    try:
        yield
    except OSError as error:
        raise StorageError(str(write_error(path, error))) from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_half_written(name: str) -> bool:
    return TEMPORARY.fullmatch(name) is not None


def _entry(key: str, path: Path) -> StoredObject | None:
    """What a file is; ``None`` where it was removed meanwhile."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return StoredObject(key, found.st_size, found.st_mtime)
