"""One run of a sweep: everything that follows from its config alone, worked out once and handed on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.plan import sweep_id
from erasure_sweep.sweep.process_needs import check_process
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.store.driver_process import DriverProcess, this_driver
from erasure_sweep.workers.storage.shard_storage import joined


@dataclass(frozen=True)
class Run:
    """A sweep, and where this process measures it. Nothing is made or read before it is used."""

    config: SweepConfig
    sweep_id: str
    """Hash of what determines the results, without models and resources."""
    folder: RunFolder
    """OUT."""
    store: str
    """Address of the sweep's finished shards, and of no other sweep's."""
    staging: Path
    """Folder of processed weights and token arrays, which all sweeps of this user share."""
    driver: DriverProcess
    """This process, as others see it."""
    fresh: bool
    """Measure everything anew, whatever an earlier run left."""

    @classmethod
    def of(cls, config: SweepConfig, fresh: bool = False) -> Run:
        """The run of a config in this process.

        Raises:
            SweepError: the process lacks what a run needs.
        """
        check_process()
        identity = sweep_id(config)
        folder = RunFolder(Path(config.out).expanduser() if config.out else Path("runs") / config.name)
        # a store that is named may hold the shards of several sweeps
        store = joined(config.store, identity) if config.store else str(folder.own_store)
        driver = this_driver(config.name, identity, folder.out, os.getpid())
        return cls(config, identity, folder, store, staging_folder(config.staging), driver, fresh)


def staging_folder(named: str | None) -> Path:
    """Where processed weights and token arrays are kept: in the folder that is named, else in the user's own."""
    return Path(named or os.environ.get("ERASURE_SWEEP_STAGING") or "~/.cache/erasure-sweep").expanduser()
