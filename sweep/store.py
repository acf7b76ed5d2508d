"""Finished shards on disk: a shard counts once its state stands here, and a resumed sweep goes on from what does.

A state is written under a temporary name, synced and renamed, and carries a checksum, so a file is whole or does not count:
a torn or altered one is found, named in the log, removed and measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sweep.files import write_atomically, write_error
from workers.encoding import is_whole
from workers.records import ScanWork, ShardTask, TrustWork, WriterBlock

log = logging.getLogger(__name__)

BlockFiles = list[tuple[WriterBlock, list[Path]]]
"""For each block of writers the files of its shards, in plan order."""


class VerifyFiles(NamedTuple):
    """The files of verify's shards, in plan order."""

    group: list[Path]
    trust: BlockFiles
    adversarial: list[Path]


class ShardStore:
    """Shard states by shard id, in one folder.

    Args:
        root: the folder; made when the first state is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, shard_id: str) -> Path:
        """The file of a shard, whether or not it exists; spread over 256 folders."""
        return self.root / shard_id[:2] / f"{shard_id}.state"

    def block_files(self, tasks: Iterable[ShardTask]) -> BlockFiles:
        """The files of shards that see a block of writers each, block by block."""
        files: dict[WriterBlock, list[Path]] = {}
        for task in tasks:
            assert isinstance(task.work, ScanWork | TrustWork)
            files.setdefault(task.work.writers, []).append(self.path(task.id))
        return list(files.items())

    def put(self, shard_id: str, state: bytes) -> None:
        """Keep a finished shard.

        Raises:
            SweepError: it cannot be written.
        """
        write_atomically(self.path(shard_id), state)

    def finished(self, shard_ids: Iterable[str]) -> set[str]:
        """Which of these shards are here and whole; damaged files are removed."""
        return {shard_id for shard_id in shard_ids if self._is_finished(shard_id)}

    def _is_finished(self, shard_id: str) -> bool:
        path = self.path(shard_id)
        try:
            state = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.root, error) from error
        if is_whole(state):
            return True
        log.warning("shard %s: %s is damaged and is measured again", shard_id, path)
        path.unlink()
        return False

    def discard(self, shard_ids: Iterable[str]) -> None:
        """Forget these shards."""
        for shard_id in shard_ids:
            self.path(shard_id).unlink(missing_ok=True)
