"""What a running driver lets others know: that it works on a sweep's store, and which staged files it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.store.lease import Heartbeat, Lease
from erasure_sweep.sweep.store.staged_use import StagedFilesInUse
from erasure_sweep.workers.records import Resolved
from erasure_sweep.workers.storage.shard_storage import open_storage


class DriverClaim:
    """A driver's lease on a store that others may see, and its use of the staging folder.

    Args:
        run: this one; for a store inside its OUT the lock of OUT is enough.
        say: tells people why it takes long.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self._storage = open_storage(run.store)
        self._lease = Lease(self._storage, run.driver, say) if run.config.store else None
        self._use = StagedFilesInUse(run.staging, run.driver)
        self._heart = Heartbeat(self._beat, self._end)

    def start(self) -> None:
        """Take the sweep for this driver.

        Raises:
            InUseError: another one works on it.
            StorageError: the store cannot be read or written.
        """
        if self._lease:
            self._lease.acquire()
        self._storage.sweep_up()
        self._use.start()
        self._heart.start()

    def uses(self, models: Iterable[Resolved]) -> None:
        """Note the staged files of the models that are measured."""
        paths = [Path(file) for model in models for file in (model.weights, model.tokens)]
        self._use.of([*paths, *(path.with_suffix(".json") for path in paths if path.suffix == ".npy")])

    def check(self) -> None:
        """See that no other driver has taken the sweep.

        Raises:
            SweepError: one has, or it could not be noted for long that this one works on it.
        """
        if self._lease:
            self._lease.check()

    def close(self) -> None:
        """Let others have it."""
        self._heart.close()

    def _beat(self) -> None:
        self._use.beat()
        if self._lease:
            self._lease.beat()

    def _end(self) -> None:
        self._use.end()
        if self._lease:
            self._lease.release()
