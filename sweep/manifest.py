"""The manifest of a run: which sweep this folder holds, with what it was measured, and how far each model is.

It is what makes a folder recognisable (another sweep's is refused) and what pages read beside the tables.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import folder_names
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.records import Resolved
from erasure_sweep.workers.storage.shard_storage import without_password
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.version import VERSION


class Manifest:
    """The manifest of one run, kept on disk after every change.

    Args:
        run: this one; the manifest stands in its folder.

    Raises:
        UsageError: the folder holds another sweep, or a damaged manifest.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        earlier = self._read_earlier()
        if earlier and earlier.get("sweep_id") != run.sweep_id:
            raise UsageError(
                f"{run.folder.out} holds another sweep ({_difference(earlier, run.config)}): choose another --out or "
                "remove it"
            )
        self._earlier = {entry["name"]: entry for entry in earlier["models"]} if earlier else {}
        self.values: dict[str, Any] = {}

    def _read_earlier(self) -> dict[str, Any] | None:
        try:
            return self._run.folder.read_manifest()
        except UsageError:
            if self._run.fresh:
                return None
            raise

    def start(self, models: list[Resolved], device: str) -> None:
        """Write down what is about to be measured; models of earlier runs of the sweep stay."""
        names = [model.name for model in models]
        folders = folder_names(names, {name: entry["folder"] for name, entry in self._earlier.items()})
        entries = {
            model.name: {
                **_described(model, folders[model.name]),
                "n_tokens": model.n_prompts * (self._run.config.n_positions or model.seq_len),
                "batch": self._run.config.batch_on(device),
                **self._reached(model),
                "run_url": None,
                "state": "MEASURING",
                "reason": None,
            }
            for model in models
        }
        self.values = {
            "sweep_id": self._run.sweep_id,
            "name": self._run.config.name,
            "version": VERSION,
            "git_commit": git_commit(),
            "python": platform.python_version(),
            "schema_version": SCHEMA_VERSION,
            "device_type": device,
            "config": _shown(self._run.config),
            "run_url": None,
            "models": list((self._earlier | entries).values()),
        }
        self._write()

    def _reached(self, model: Resolved) -> dict[str, Any]:
        """Which stages' tables there are, and what was verified: of an earlier run, until this one gets there."""
        earlier = self._earlier.get(model.name, {})
        if self._run.fresh or earlier.get("hash") != model.hash:
            earlier = {}
        return {"stages": [], "targets": [], "n_verify_prompts": None, "held_out": None} | {
            key: earlier[key] for key in ("stages", "targets", "n_verify_prompts", "held_out") if key in earlier
        }

    def refuse_other_weights(self, models: list[Resolved]) -> None:
        """See that no finished results would be replaced by those of another model of the same name.

        Raises:
            UsageError: they would.
        """
        for model in models:
            if self.holds_other(model) and not self._run.fresh:
                raise UsageError(
                    f"{self._run.folder.out} holds results of other weights called {model.name}: choose another --out, "
                    "or replace them with --fresh"
                )

    def holds_other(self, model: Resolved) -> bool:
        """Whether the folder holds results of other weights of this name."""
        earlier = self._earlier.get(model.name)
        return bool(earlier and earlier.get("hash") != model.hash)

    def entry(self, name: str) -> dict[str, Any]:
        """A model's entry."""
        return next(entry for entry in self.values["models"] if entry["name"] == name)

    def update(self, name: str, **values: Any) -> None:
        """Note something about a model: its state, why it failed, the batch that fitted."""
        self.entry(name).update(values)
        self._write()

    def note_runs(self, sweep: str | None, models: Mapping[str, str | None]) -> None:
        """Note where MLflow's server shows the sweep's run and each model's; ``None`` where it has no server."""
        self.values["run_url"] = sweep
        for name, url in models.items():
            self.entry(name)["run_url"] = url
        self._write()

    def note_progress(self, done: Mapping[str, int]) -> None:
        """Note how many shards of its stage are measured, of each of these models."""
        changed = {name: n for name, n in done.items() if self.entry(name).get("shards_done") != n}
        for name, n in changed.items():
            self.entry(name)["shards_done"] = n
        if changed:
            self._write()

    def note_stage(self, name: str, stage: str) -> None:
        """Note that a stage of a model is measured and its tables are written."""
        self.update(name, stages=list(dict.fromkeys([*self.entry(name)["stages"], stage])))

    def _write(self) -> None:
        self._run.folder.write_manifest(self.values)


def _described(model: Resolved, folder: str) -> dict[str, Any]:
    """What a model's entry says of it, whatever becomes of it."""
    return {
        "name": model.name,
        "spec": model.spec,
        "hash": model.hash,
        "folder": folder,
        **model.architecture,
        "n_params": model.n_params,
        "base": model.base,
        "training_tokens": model.training_tokens,
        "training_steps": model.training_steps,
        "corpus_name": model.corpus,
        "corpus": model.corpus_description,
        "corpus_fingerprint": model.corpus_fingerprint,
        "n_prompts": model.n_prompts,
    }


def _shown(config: SweepConfig) -> dict[str, Any]:
    """The config as it may be kept and logged: positions as they are measured, addresses without their passwords."""
    values = {**config.model_dump(), "positions": config.protocol()["positions"]}
    addresses = {"tracking_uri": config.tracking_uri, "store": config.store}
    return values | {key: without_password(address) if address else None for key, address in addresses.items()}


def _difference(earlier: dict[str, Any], config: SweepConfig) -> str:
    """What differs between a folder's sweep and this one, for the error."""
    then = earlier.get("config", {})
    now = {**config.protocol(), "writers": config.writers, "erasers": config.erasers}
    changed = [f"{key} {then.get(key)!r}" for key, value in now.items() if then.get(key, value) != value]
    return ", ".join(changed) or f"of version {earlier.get('version', '?')}"


@cache
def git_commit() -> str | None:
    """Commit of the source tree that this package runs from; ``None`` for an installed one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if tracked.returncode == 0 else None
