"""A sweep's runs in MLflow, as the driver sees them: a store that fails later costs nothing that was measured.

Before anything is measured a store that cannot be reached is an error. Once measuring has begun the first failure is kept
as a problem of the run and nothing more is sent: results stay in OUT, and the next ``run`` logs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sweep.config import SweepConfig
from sweep.files import RunFolder
from sweep.manifest import Manifest
from sweep.tracking import Status, Tracker, TrackingError, default_uri, model_metrics
from sweep.verify_metrics import verify_metrics
from workers.records import Resolved

log = logging.getLogger(__name__)


class LoggedRuns:
    """The sweep's run and its models' runs.

    Args:
        config: the sweep; names the store and the experiment.
    """

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._tracker = Tracker(config.tracking_uri or default_uri(), config.experiment or config.name)
        self.problems: list[str] = []

    @property
    def uri(self) -> str:
        """The tracking store."""
        return self._tracker.uri

    def check(self) -> None:
        """Reach the store now.

        Raises:
            SweepError: it cannot be reached or written.
        """
        self._tracker.check()

    def start(self, manifest: Manifest, models: list[Resolved]) -> None:
        """Open the sweep's run and each model's."""
        values = manifest.values
        tags = {key: str(values[key]) for key in ("version", "device_type", "git_commit") if values[key]}
        tags |= {"stage": self._config.stage}
        self._tracker.start_sweep(values["sweep_id"], self._config.protocol(), tags)
        shown = ("n_layers", "n_heads", "d_model", "d_mlp", "n_ctx", "d_vocab", "act_fn", "attn_only", "n_params")
        for model in models:
            entry = manifest.entry(model.name)
            found = {key: entry[key] for key in (*shown, "hash", "corpus_fingerprint", "n_prompts", "n_tokens")}
            training = ("base", "training_tokens", "training_steps", "corpus_name")
            found |= {key: entry[key] for key in training if entry[key] is not None}
            params = {**found, **self._config.protocol()}
            self._tracker.start_model(model.name, model.hash, params, tags)

    def log_model(self, model: Resolved, folder: RunFolder, entry: dict[str, Any]) -> None:
        """Log a finished model."""
        tables = folder.tables(entry["folder"])
        dataset = {
            "name": Path(model.corpus).name,
            "digest": model.corpus_fingerprint[:32],
            "source": model.corpus_description,
        }

        def send() -> None:
            measured = {path.stem: pd.read_parquet(path) for path in sorted(tables.glob("*.parquet"))}
            metrics = model_metrics(measured) | verify_metrics(measured)
            self._tracker.tag_model(model.hash, {"stage": "+".join(entry["stages"])})
            self._tracker.log_model(model.hash, metrics, tables, folder.figures(entry["folder"]), dataset)  # type: ignore[arg-type]
            self._tracker.end_model(model.hash, "FINISHED")

        self._try(send)

    def end_model(self, model_hash: str, status: Status, reason: str) -> None:
        """Close the run of a model that was not measured whole."""
        self._try(lambda: self._tracker.end_model(model_hash, status, reason))

    def end_sweep(self, folder: RunFolder, status: Status) -> None:
        """Close the sweep's run, with its page and manifest."""

        def send() -> None:
            for path in (folder.comparison, folder.manifest):
                if path.exists():
                    self._tracker.log_sweep_artifact(path)
            self._tracker.end_sweep(status)

        self._try(send)

    def _try(self, send: Callable[[], None]) -> None:
        if self.problems:
            return
        try:
            send()
        except TrackingError as error:
            log.warning("MLflow failed", exc_info=True)
            self.problems.append(str(error))
