"""What the driver writes into the manifest of its run, after every change.

The manifest makes a folder recognisable: another sweep's is refused, and so are other weights of the same name.
"""

from __future__ import annotations

import logging
import platform
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.plan import measured_tokens
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import folder_names
from erasure_sweep.sweep.tracking.store_address import named_uri
from erasure_sweep.workers.code_identity import code_identity
from erasure_sweep.workers.credentials import masked, masked_values
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.manifest import (
    MANIFEST_VERSION,
    Manifest,
    ManifestConfig,
    ManifestEntry,
    NewerError,
    VerifiedTarget,
)
from erasure_sweep.workers.records import ChosenTargets, Numerics, Resolved
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.sweep_folder import is_own_name
from erasure_sweep.workers.version import VERSION

log = logging.getLogger(__name__)

_REACHED = ("stages", "tables", "targets", "targets_reason", "n_verify_prompts", "held_out")
"""What a later run of a model goes on from."""


class ManifestKeeper:
    """Keeps the manifest of one run.

    Args:
        run: this one; the manifest stands in its folder.
        say: tells people a line.

    Raises:
        UsageError: the folder holds another sweep, what a later version wrote, or a damaged manifest without a whole copy.
    """

    def __init__(self, run: Run, say: Callable[[str], None] = log.info) -> None:
        self._run, self._say = run, say
        earlier = self._read_earlier()
        if earlier and earlier.sweep_id != run.sweep_id:
            raise UsageError(
                f"{run.folder.out} holds another sweep ({_difference(earlier, run.config)}): choose another --out or "
                "remove it"
            )
        self._earlier = {entry.name: entry for entry in earlier.models if self._is_own(entry)} if earlier else {}
        self.manifest = Manifest(config=ManifestConfig(), models=())
        """As it stands; without models until they are resolved."""

    def _read_earlier(self) -> Manifest | None:
        folder = self._run.folder
        try:
            return folder.read_manifest()
        except NewerError:
            raise
        except UsageError as error:
            restored = folder.restore_manifest()
            if restored is None and not self._run.fresh:
                raise UsageError(
                    f"{folder.manifest} is damaged, and so is its copy: which sweep {folder.out} holds cannot be told; choose "
                    "another --out, or measure anew with --fresh"
                ) from error
            self._say(f"{folder.manifest} is damaged: it is written anew{' from its copy' if restored else ''}")
            return restored

    def _is_own(self, entry: ManifestEntry) -> bool:
        if is_own_name(entry.folder):
            return True
        self._say(
            f"the manifest's folder {entry.folder!r} of {entry.name} is none of {self._run.folder.out}'s own: not used"
        )
        return False

    @property
    def names(self) -> dict[str, str]:
        """Of the models that earlier runs measured, by hash."""
        return {entry.hash: name for name, entry in self._earlier.items()}

    def start(self, models: list[Resolved], numerics: Numerics) -> None:
        """Write down what is about to be measured; models of earlier runs of the sweep stay."""
        config = self._run.config
        folders = self.name_folders(models)
        entries = {
            model.name: ManifestEntry(
                **_description(model),
                folder=folders[model.name],
                n_tokens=measured_tokens(config, model),
                batch=config.batch_on(numerics.device),
                numerics=numerics._asdict(),
                **self._reached(model),
                run_url=None,
                state="MEASURING",
                reason=None,
            )
            for model in models
        }
        measured = {model.hash for model in models}  # what has another name now is not listed twice
        earlier = {
            name: entry for name, entry in self._earlier.items() if name in entries or entry.hash not in measured
        }
        self._write(
            Manifest(
                manifest_version=MANIFEST_VERSION,
                sweep_id=self._run.sweep_id,
                name=config.name,
                version=VERSION,
                git_commit=git_commit(),
                code_hash=code_identity().hash,
                python=platform.python_version(),
                schema_version=SCHEMA_VERSION,
                device_type=numerics.device,
                config=ManifestConfig(**_shown(config)),
                run_url=None,
                models=tuple((earlier | entries).values()),
            )
        )

    def name_folders(self, models: list[Resolved]) -> dict[str, str]:
        """The folder of each model, by its name.

        Raises:
            DataError: one leads out of OUT.
        """
        taken = {name: entry.folder for name, entry in self._earlier.items()}
        folders = folder_names([model.name for model in models], taken)
        for model in models:
            self._run.folder.tables(folders[model.name])
        return folders

    def _reached(self, model: Resolved) -> dict[str, Any]:
        """Which stages' tables there are, and what was verified: of an earlier run, until this one gets there."""
        earlier = self._earlier.get(model.name)
        if earlier is None or earlier.hash != model.hash:
            return {**dict.fromkeys(_REACHED), "stages": (), "tables": (), "targets": ()}
        return {key: getattr(earlier, key) for key in _REACHED}

    def refuse_other_weights(self, models: list[Resolved]) -> None:
        """See that no finished results would be replaced by those of another model of the same name.

        Raises:
            UsageError: they would.
        """
        for model in models:
            if self.holds_other(model) and not self._run.fresh:
                raise UsageError(
                    f"{self._run.folder.out} holds results of other weights called {model.name}: choose another --out, "
                    f"replace them with --fresh, or write NAME={model.spec} to call these otherwise"
                )

    def folder_of_other(self, model: Resolved) -> str | None:
        """The folder of results of other weights of this name."""
        return self._earlier[model.name].folder if self.holds_other(model) else None

    def holds_other(self, model: Resolved) -> bool:
        """Whether the folder holds results of other weights of this name."""
        earlier = self._earlier.get(model.name)
        return earlier is not None and earlier.hash != model.hash

    def entry(self, name: str) -> ManifestEntry:
        """A model's entry."""
        return self.manifest.entry(name)

    def update(self, name: str, **values: Any) -> None:
        """Note something about a model: its state, why it failed, the batch that fitted."""
        if values.get("reason"):
            values["reason"] = masked(values["reason"])
        self._write(self.manifest.with_entry(name, **values))

    def note_targets(self, name: str, chosen: ChosenTargets, **verify: Any) -> None:
        """Note what of a model is verified, and why that, with what else verify measures on; and say it."""
        targets = tuple(VerifiedTarget(**target._asdict()) for target in chosen.targets)
        self.update(name, targets=targets, targets_reason=chosen.reason, **verify)
        self._say(f"{name}: verifying {chosen.reason}")

    def note_runs(self, sweep: str | None, models: Mapping[str, str | None]) -> None:
        """Note where MLflow's server shows the sweep's run and each model's; ``None`` where it has no server."""
        manifest = self.manifest.model_copy(update={"run_url": sweep})
        for name, url in models.items():
            manifest = manifest.with_entry(name, run_url=url)
        self._write(manifest)

    def note_progress(self, done: Mapping[str, int]) -> None:
        """Note how many shards of its stage are measured, of each of these models."""
        changed = {name: n for name, n in done.items() if self.entry(name).shards_done != n}
        manifest = self.manifest
        for name, n in changed.items():
            manifest = manifest.with_entry(name, shards_done=n)
        if changed:
            self._write(manifest)

    def note_stage(self, name: str, stage: str) -> None:
        """Note that a stage of a model is measured and its tables are written."""
        entry = self.entry(name)
        tables = sorted(path.stem for path in self._run.folder.tables(entry.folder).glob("*.parquet"))
        self.update(name, stages=tuple(dict.fromkeys([*entry.stages, stage])), tables=tuple(tables))

    def _write(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._run.folder.write_manifest(manifest)


def _description(model: Resolved) -> dict[str, Any]:
    """What a model's entry says of it, whatever becomes of it."""
    return {
        "name": model.name,
        "spec": model.spec,
        "hash": model.hash,
        **model.architecture,
        "n_params": model.n_params,
        "base": model.base,
        "training_tokens": model.training_tokens,
        "training_steps": model.training_steps,
        "corpus_name": model.corpus,
        "corpus": model.corpus_description,
        "corpus_fingerprint": model.corpus_fingerprint,
        "n_prompts": model.n_prompts,
        "weights_file": Path(model.weights).name,
        "tokens_file": Path(model.tokens).name,
    }


def _shown(config: SweepConfig) -> dict[str, Any]:
    """The config as it may be kept and logged: positions as they are measured, nothing secret."""
    asked = {"tracking_uri": named_uri(config.tracking_uri), "positions": config.protocol()["positions"]}
    values = {**config.model_dump(), **asked}
    return {key: masked_values(value) for key, value in values.items()} | {"name": config.name}


def _difference(earlier: Manifest, config: SweepConfig) -> str:
    """What differs between a folder's sweep and this one, for the error."""
    then = earlier.config.to_json()
    now = {**config.protocol(), "writers": config.writers, "erasers": config.erasers}
    changed = [f"{key} {then.get(key)!r}" for key, value in now.items() if then.get(key, value) != value]
    return ", ".join(changed) or f"of version {earlier.version or '?'}"


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
