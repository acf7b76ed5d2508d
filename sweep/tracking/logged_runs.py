"""A sweep's runs in MLflow, as the driver sees them: a store that fails or is slow costs nothing that is measured.

Before anything is measured a store that cannot be reached is an error. From then on everything is sent from a thread of
its own, in order, and the driver's loop never waits for it. What fails is kept and tried again while measuring goes on, and
once more at the end; what is not logged even then is a problem of the run: results stay in OUT, and the next ``run`` logs
them. An interrupt waits for MLflow no longer than a person would. What the driver's machine does is sent by the same thread
while nothing else waits; where that fails it is left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from erasure_sweep.dashboards.model_names import family_of
from erasure_sweep.sweep.manifest_writer import ManifestKeeper
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.terminal.progress import Reporter
from erasure_sweep.sweep.tracking.descriptions import model_note
from erasure_sweep.sweep.tracking.metrics import model_metrics, size_metrics, verify_metrics
from erasure_sweep.sweep.tracking.sender import Job, Sender
from erasure_sweep.sweep.tracking.store_address import store_uri
from erasure_sweep.sweep.tracking.system_metrics import MachineMetrics, sampling_s, this_machine
from erasure_sweep.sweep.tracking.tracker import DatasetInfo, ModelResults, Status, Tracker
from erasure_sweep.workers.manifest import ManifestEntry
from erasure_sweep.workers.records import Resolved
from erasure_sweep.workers.tables.facts.erasure import most_erased
from erasure_sweep.workers.tables.files import read_tables

log = logging.getLogger(__name__)

NOTING_S: dict[Status, float] = {"KILLED": 4.0, "FAILED": 30.0}
"""How long a run that ends before its time waits for MLflow to take that down."""

_SLOW_S = 10.0
_DESCRIBE_S = 30.0
"""At least between two descriptions of a sweep that goes on."""
_FIRST_SAMPLE_S = 1.0
"""Use of a CPU is told as of the time since the last sample."""


class LoggedRuns:
    """The sweep's run and its models' runs.

    Args:
        run: its config names the store and the experiment.
        reporter: hears when the store fails and when it answers again, from another thread.
    """

    def __init__(self, run: Run, reporter: Reporter) -> None:
        config = run.config
        self._run = run
        self._reporter = reporter
        self._tracker = Tracker(store_uri(config.tracking_uri), config.experiment or config.name)
        self._sender = Sender(self._tracker.check, reporter.say)
        self._manifest: ManifestKeeper | None = None
        self._machine: MachineMetrics | None = None
        self._described_at = 0.0

    @property
    def problems(self) -> list[str]:
        """What is not logged, a line each."""
        return self._sender.problems()

    def check(self) -> None:
        """Reach the store now.

        Raises:
            SweepError: it cannot be reached or written.
        """
        if news := self._sender.call(self._tracker.check):
            self._reporter.say(news)

    def start(self, manifest: ManifestKeeper, models: list[Resolved]) -> None:
        """Open the sweep's run and each model's, now, and note in the manifest where they are.

        Raises:
            SweepError: they cannot be written.
        """
        self._manifest = manifest
        urls = self._sender.call(lambda: self._start(manifest, models))
        manifest.note_runs(urls.pop(None), urls)
        self._sender.repeat(self._watch, _FIRST_SAMPLE_S, sampling_s())

    def _start(self, manifest: ManifestKeeper, models: list[Resolved]) -> dict[Any, str | None]:
        """Open the runs; returns their addresses by the model's name, and of the sweep's own under ``None``."""
        written = manifest.manifest
        made_with = {"version": written.version, "device_type": written.device_type, "git_commit": written.git_commit}
        tags = {key: value for key, value in made_with.items() if value} | {"stage": self._run.config.stage}
        self._tracker.start_sweep(self._run.sweep_id, self._run.config.protocol(), tags)
        urls: dict[Any, str | None] = {None: self._tracker.run_url(None)}
        for model in models:
            entry = manifest.entry(model.name)
            params = {**_parameters(entry), **self._run.config.protocol()}
            self._tracker.start_model(model.name, model.hash, params, {"family": family_of(model.name), **tags})
            urls[model.name] = self._tracker.run_url(model.hash)
        self._describe()
        self._machine = this_machine()
        return urls

    def _describe(self) -> None:
        """Tell in the descriptions how the models stand now."""
        if self._manifest:
            self._tracker.describe_sweep(self._manifest.manifest)
            self._described_at = time.monotonic()

    def _watch(self) -> None:
        """Log what the driver's machine does, if that can be."""
        if self._machine is None:
            return
        try:
            self._tracker.log_machine(self._machine.sample())
        except Exception as error:  # noqa: BLE001 nothing that is measured depends on it
            log.info("no sample of the machine: %s", error)

    def _end_sweep(self, status: Status) -> None:
        self._watch()
        self._machine = None
        self._tracker.end_sweep(status)

    def log_model(self, model: Resolved, entry: ManifestEntry) -> None:
        """Log a finished model, soon."""
        dataset: DatasetInfo = {
            "name": Path(model.corpus).name,
            "digest": model.corpus_fingerprint[:32],
            "source": model.corpus_description,
            "prompts": model.n_prompts,
            "seq_len": model.seq_len,
            "tokens": model.n_tokens,
        }

        def send() -> None:
            self._tracker.log_model(model.hash, self._results(entry, dataset))
            self._tracker.end_model(model.hash, "FINISHED")
            if time.monotonic() - self._described_at > _DESCRIBE_S:
                self._describe()

        self._sender.add([Job(model.hash, send)])

    def _results(self, entry: ManifestEntry, dataset: DatasetInfo) -> ModelResults:
        folder = self._run.folder
        folder.remove_left(entry.folder)  # a helper process may have been killed and replaced
        tables = folder.tables(entry.folder)
        measured = read_tables(tables)
        return ModelResults(
            folder.model_page(entry.folder),
            tables,
            folder.figures(entry.folder),
            size_metrics(entry) | model_metrics(measured) | verify_metrics(measured),
            {"stage": "+".join(entry.stages), **most_erased(measured)},
            model_note(entry, self._manifest.manifest if self._manifest else None, measured),
            dataset,
        )

    def end_model(self, model_hash: str, status: Status, reason: str) -> None:
        """Close the run of a model that was not measured whole, soon."""
        self._sender.add([self._end_job(model_hash, status, reason)])

    def end_sweep(self, status: Status) -> None:
        """Close the sweep's run, with its page and manifest, and wait until all is logged or has failed once more.

        It is FAILED where something of its models could not be logged.
        """

        def send() -> None:
            self._log_files()
            self._describe()
            self._end_sweep("FAILED" if self.problems else status)

        tried = self._sender.try_all([Job(None, send)])
        if not self._sender.wait(tried, _SLOW_S):
            self._reporter.say("nothing more to measure, waiting for MLflow to take what there is")
            self._sender.wait(tried)
        self._sender.raise_unexpected()

    def end_early(self, model_hashes: Iterable[str], status: Status, reason: str) -> None:
        """Close the sweep's run and those of models that were not measured whole, as far as MLflow takes it in time.

        When interrupted, measured models that wait to be logged are left to the next run.
        """
        left = self._sender.drop() if status == "KILLED" else []
        jobs = [
            Job(None, lambda: self._end_sweep(status)),
            *(self._end_job(model_hash, status, reason) for model_hash in dict.fromkeys([*model_hashes, *left])),
            Job(None, self._log_files),
            Job(None, self._describe),
        ]
        if not self._sender.wait(self._sender.try_all(jobs), NOTING_S[status]):
            log.warning("MLflow did not take down within %g s that the run ended", NOTING_S[status])

    def close(self) -> None:
        """Send nothing more."""
        self._sender.close()

    def _end_job(self, model_hash: str, status: Status, reason: str) -> Job:
        return Job(model_hash, lambda: self._tracker.end_model(model_hash, status, reason))

    def _log_files(self) -> None:
        for path in (self._run.folder.comparison, self._run.folder.manifest):
            if path.exists():
                self._tracker.log_sweep_artifact(path)


def _parameters(entry: ManifestEntry) -> dict[str, Any]:
    """What a model's entry in the manifest says of it as parameters."""
    shown = ("n_layers", "n_heads", "d_model", "d_mlp", "n_ctx", "d_vocab", "act_fn", "attn_only", "n_params")
    always = (*shown, "hash", "corpus_fingerprint", "n_prompts", "n_tokens")
    known = ("base", "training_tokens", "training_steps", "corpus_name")
    values = {key: getattr(entry, key) for key in (*always, *known)}
    return {key: value for key, value in values.items() if key in always or value is not None}
