"""MLflow, behind one door: one experiment per sweep name, one parent run per sweep, one child run per model.

Only the driver writes. A sweep's run is found again by the tag ``sweep_id`` (the hash of what determines results), a
model's by that and its ``model_hash``, so a resumed or extended sweep continues its runs instead of starting others.
Writing twice is the same as writing once: artifacts are overwritten, parameters only added, and metrics carry the run's
own start time, so that one measurement stays one row. What the driver's machine does is no result: each sample is a row
of its own in the sweep's run, behind those that are there.

When two writers meet:

- Two drivers on one output folder do not: the folder's lock keeps them apart.
- Two drivers that run the same sweep into different folders find the same runs. What they write is equal, since its
  identity is, so order does not matter; but each ends the runs when it is done, and the last one's word stands. Only
  samples of their machines stand among each other.
- MLflow has no unique tags, so looking for a run and creating it is not one step. Who created a run looks again and
  keeps the oldest, deleting its own when another came first. Both can stay only if they are created within the same
  instant or by disagreeing clocks; both are then whole, and every later look-up takes the oldest.
- Two drivers that create one experiment: MLflow refuses the second, which then uses the first one's.
- SQLite lets one process write at a time; MLflow waits up to 20 s for the other and then fails as if it were down.

Stores fail. ``check`` and ``start_sweep`` come before anything is measured; later a ``TrackingError`` says that results
are kept on disk, and the next run logs them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from erasure_sweep.sweep.tracking.artifact_places import of_experiment, put_right
from erasure_sweep.sweep.tracking.descriptions import Row, experiment_note, sweep_note
from erasure_sweep.sweep.tracking.mlflow_store import TrackingStore, quieten
from erasure_sweep.sweep.tracking.saved_view import VIEW_TAG, runs_page, save_view
from erasure_sweep.sweep.tracking.store_address import refuse_unusable, run_url, sqlite_path
from erasure_sweep.workers.credentials import masked
from erasure_sweep.workers.errors import DataError, SweepError, UsageError
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.printable import printable_line
from erasure_sweep.workers.printed_commands import quoted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Status = Literal["FINISHED", "FAILED", "KILLED"]

_KEPT = "results on disk are kept, the next `erasure-sweep run` logs them"
_LAST_USED = "last_used"
_NOTE = "mlflow.note.content"
_NOTE_DIGEST = "erasure_sweep.note"
"""Digest of the experiment's description as it was written here: one that people have changed is theirs."""
_SOURCE = {"mlflow.source.name": "erasure-sweep", "mlflow.source.type": "LOCAL"}


class TrackingError(SweepError):
    """MLflow could not be read or written; what was measured is kept on disk and logged by the next run."""


class DatasetInfo(TypedDict):
    """What a model was measured on, as MLflow shows it: the corpus' name, fingerprint and origin, and its prompts."""

    name: str
    digest: str
    source: str
    prompts: int
    seq_len: int
    """The most tokens that a prompt may have."""
    tokens: int
    """Of all prompts."""


class ModelResults(NamedTuple):
    """What is logged of a measured model."""

    page: Path
    """With all its figures."""
    tables: Path
    """Folder."""
    figures: Path
    """Folder."""
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    note: str
    """Its result in markdown."""
    dataset: DatasetInfo


class Tracker:
    """The runs of one sweep in one MLflow store. Not safe to share between threads."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self._store = TrackingStore(uri)
        self.experiment = printable_line(experiment)
        self._sweep_id: str | None = None
        self._sample = 0
        self._runs: dict[str | None, Run] = {}  # by model hash; the sweep's own run under None

    def check(self) -> str | None:
        """See that the store can be reached and written now, within about ten seconds.

        Returns:
            A line on what was put right there, if anything.

        Raises:
            UsageError: no kind of store that MLflow supports, or another application's database.
            SweepError: it does not answer, refuses, or cannot be written; one line with the way out.
        """
        refuse_unusable(self.uri)
        path = sqlite_path(self.uri)
        with self._store.reaching():
            quieten()
            self._store.probe()
            _ = self._client
            news = put_right(path) if path else None
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._client.set_experiment_tag(self._experiment_id, _LAST_USED, now)
        return news

    def start_sweep(self, sweep_id: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Open the sweep's run, the one it had before where there is one, and return its id.

        ``params`` also become the artifact ``sweep.json``: whether artifacts can be written shows before hours of work.
        """
        self._sweep_id = sweep_id
        with self._logging():
            save_view(self._client, self._experiment_id)
            run = self._open({"role": "sweep", "sweep_id": sweep_id}, self.experiment)
            self._describe(run, params, tags)
            self._client.log_text(
                run.info.run_id, masked(json.dumps(dict(params), indent=2, default=str)), "sweep.json"
            )
            self._sample = self._next_sample(run)
        self._runs[None] = run
        return str(run.info.run_id)

    def start_model(self, model: str, model_hash: str, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
        """Open a model's run under the sweep's, the one it had before where there is one, and return its id."""
        parent = self._run(None)
        with self._logging():
            identity = {"role": "model", "sweep_id": str(self._sweep_id), "model_hash": model_hash}
            run = self._open(identity, model)
            self._describe(run, params, {"mlflow.parentRunId": parent.info.run_id, "model": model, **tags})
        self._runs[model_hash] = run
        return str(run.info.run_id)

    def log_model(self, model_hash: str, results: ModelResults) -> None:
        """Write a model's artifacts, metrics, tags, dataset and description; twice is the same as once.

        Raises:
            DataError: a folder or the page is not there, which MLflow would pass over in silence.
            TrackingError: MLflow failed.
        """
        run = self._run(model_hash)
        run_id = run.info.run_id
        for path in (results.tables, results.figures, results.page):
            if not path.exists():
                raise DataError(f"{path} is not there, so it cannot be logged: run the sweep again to write it")
        with self._logging():
            self._client.log_artifact(run_id, str(results.page))
            self._client.log_artifacts(run_id, str(results.tables), "tables")
            self._client.log_artifacts(run_id, str(results.figures), "figures")
            self._log_metrics(run_id, results.metrics)
            self._client.log_inputs(run_id, [_dataset_input(results.dataset)])
            self._set_tags(run_id, {**results.tags, _NOTE: masked(results.note)})

    def end_model(self, model_hash: str, status: Status, reason: str | None = None) -> None:
        """Close a model's run. FINISHED only if everything in it was measured; ``reason`` is why it was not."""
        self._end(self._run(model_hash), status, reason)

    def describe_sweep(self, manifest: Manifest) -> None:
        """Write the sweep's result into its run's name and description, and into the experiment's.

        Args:
            manifest: the sweep's, with all its models.
        """
        run_id = self._run(None).info.run_id
        with self._logging():
            rows = self._rows()
            self._set_tags(run_id, {_NOTE: masked(sweep_note(manifest, rows))})
            self._name_sweep(run_id, len(rows))
            note = masked(experiment_note(str(manifest.name), self._experiment_id, manifest, rows))
            present = self._experiment_tags()
            if present.get(_NOTE) and not any(row.status == "FINISHED" for row in rows):
                return  # what an earlier sweep found says more
            if present.get(_NOTE, "") == "" or _digest(present[_NOTE]) == present.get(_NOTE_DIGEST):
                self._tag_experiment({_NOTE: note, _NOTE_DIGEST: _digest(note)})

    def log_machine(self, sample: Mapping[str, float]) -> None:
        """Write what the driver's machine does now into the sweep's run."""
        from mlflow.entities import Metric

        run_id = self._run(None).info.run_id
        now_ms = int(time.time() * 1000)
        with self._logging():
            rows = [Metric(key, value, now_ms, self._sample) for key, value in sample.items()]
            self._client.log_batch(run_id, metrics=rows)
        self._sample += 1

    def end_sweep(self, status: Status) -> None:
        """Close the sweep's run. FINISHED only if every model was measured."""
        self._end(self._run(None), status, None)

    def run_url(self, model_hash: str | None) -> str | None:
        """Address of a model's run, or with ``None`` the sweep's, where the store is a server that shows it."""
        return run_url(self.uri, self._experiment_id, self._run(model_hash).info.run_id)

    def log_sweep_artifact(self, path: Path) -> None:
        """Write a file of the whole sweep, such as the comparison page, into the sweep's run."""
        run = self._run(None)
        with self._logging():
            self._client.log_artifact(run.info.run_id, str(path))

    def page(self) -> str | None:
        """Address of the experiment's page below the server's own, None when it has none yet."""
        with self._store.reaching():
            found = self._client.get_experiment_by_name(self.experiment)
        return runs_page(str(found.experiment_id), VIEW_TAG in found.tags) if found is not None else None

    def last_used(self) -> str | None:
        """Name of the store's experiment that sweeps were logged to last; of a single one its name; else ``None``."""
        with self._store.reaching():
            found = [one for one in self._client.search_experiments() if one.name != "Default"]
        used = [one for one in found if _LAST_USED in one.tags]
        if used:
            return str(max(used, key=lambda one: str(one.tags[_LAST_USED])).name)
        return str(found[0].name) if len(found) == 1 else None

    @property
    def _client(self) -> MlflowClient:
        return self._store.client

    def _logging(self) -> AbstractContextManager[None]:
        return self._store.reaching(TrackingError, _KEPT)

    @cached_property
    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self.experiment, artifact_location=self._artifact_location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage != "active":
            raise UsageError(
                f"experiment {self.experiment!r} was deleted in MLflow at {self._store.shown}: restore it with "
                f"`MLFLOW_TRACKING_URI={quoted(masked(self.uri))} mlflow experiments restore --experiment-id "
                f"{found.experiment_id}` or pass another --experiment"
            )
        return str(found.experiment_id)

    @property
    def _artifact_location(self) -> str | None:
        """Beside a SQLite file, where a server started from any folder finds it; else what the store decides."""
        path = sqlite_path(self.uri)
        return None if path is None else of_experiment(path, self.experiment)

    def _run(self, model_hash: str | None) -> Run:
        if model_hash not in self._runs:
            what = "the sweep" if model_hash is None else f"model {model_hash}"
            raise TrackingError(
                f"the run of {what} was never opened in MLflow at {self._store.shown}: the next run logs it"
            )
        return self._runs[model_hash]

    def _find(self, identity: Mapping[str, str]) -> Run | None:
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
        found = self._client.search_runs([self._experiment_id], query, order_by=["attributes.start_time ASC"])
        return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _open(self, identity: Mapping[str, str], name: str) -> Run:
        """The oldest run with these tags, created if there is none, and set to RUNNING."""
        run = self._find(identity)
        if run is None:
            run = self._client.create_run(self._experiment_id, tags=dict(identity), run_name=printable_line(name))
            oldest = self._find(identity) or run
            if oldest.info.run_id != run.info.run_id:
                self._client.delete_run(run.info.run_id)
                run = oldest
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        if "reason" in run.data.tags:
            self._client.delete_tag(run.info.run_id, "reason")
        return run

    def _describe(self, run: Run, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Tags, which may change, and those parameters that the run does not have: MLflow refuses to change one."""
        from mlflow.entities import Param

        missing = [Param(key, _as_text(value)) for key, value in params.items() if key not in run.data.params]
        shown = {"state": "running", **_SOURCE, **tags}
        if "git_commit" in shown:
            shown["mlflow.source.git.commit"] = shown["git_commit"]
        for start in range(0, len(missing), 100):  # MLflow's limit for one batch
            self._client.log_batch(run.info.run_id, params=missing[start : start + 100])
        self._set_tags(run.info.run_id, shown)

    def _experiment_tags(self) -> dict[str, str]:
        return dict(self._client.get_experiment(self._experiment_id).tags)

    def _tag_experiment(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_experiment_tag(self._experiment_id, key, value)

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _rows(self) -> list[Row]:
        """The sweep's models, in the order in which their runs were made."""
        query = f"tags.role = 'model' and tags.sweep_id = '{self._sweep_id}'"
        oldest: dict[str, Run] = {}
        for run in self._store.runs(self._experiment_id, query):
            if "model_hash" in run.data.tags:  # else it is somebody else's
                oldest.setdefault(run.data.tags["model_hash"], run)
        below = f"#/experiments/{self._experiment_id}/runs"
        return [
            Row(run.info.run_name, f"{below}/{run.info.run_id}", run.info.status, run.data.metrics, run.data.tags)
            for run in oldest.values()
        ]

    def _name_sweep(self, run_id: str, models: int) -> None:
        """Add the number of its models to the name of the sweep's run, unless people have given it another."""
        name = self._client.get_run(run_id).info.run_name
        told = f"{self.experiment} ({models} model{'' if models == 1 else 's'})"
        if name != told and re.fullmatch(re.escape(self.experiment) + r"( \(\d+ models?\))?", name):
            self._client.update_run(run_id, name=told)

    def _next_sample(self, run: Run) -> int:
        """The step behind those of the machine that were logged before."""
        key = next((key for key in run.data.metrics if key.startswith("system/")), None)
        if key is None:
            return 0
        return 1 + max(int(row.step) for row in self._client.get_metric_history(run.info.run_id, key))

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Write those that are new or changed, at one fixed time, so that a repetition is no second row."""
        from mlflow.entities import Metric

        run = self._client.get_run(run_id)
        rows = []
        for key, value in metrics.items():
            if not math.isfinite(value) or run.data.metrics.get(key) == value:
                continue
            timestamp = run.info.start_time
            if key in run.data.metrics:  # the latest row is what MLflow shows
                timestamp = max(row.timestamp for row in self._client.get_metric_history(run_id, key)) + 1
            rows.append(Metric(key, float(value), timestamp, 0))
        if rows:
            self._client.log_batch(run_id, metrics=rows)

    def _end(self, run: Run, status: Status, reason: str | None) -> None:
        with self._logging():
            self._client.set_tag(run.info.run_id, "state", status.lower())
            if reason is not None:
                self._client.set_tag(run.info.run_id, "reason", masked(reason))
            elif "reason" in self._client.get_run(run.info.run_id).data.tags:  # of another driver meanwhile
                self._client.delete_tag(run.info.run_id, "reason")
            self._client.set_terminated(run.info.run_id, status)


def _as_text(value: object) -> str:
    return masked(value if isinstance(value, str) else json.dumps(value, default=str))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _dataset_input(dataset: DatasetInfo) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    length = dataset["seq_len"]
    column = {"type": "tensor", "name": "tokens", "tensor-spec": {"dtype": "int64", "shape": [-1, length]}}
    entity = Dataset(
        name=dataset["name"][:500],
        digest=dataset["digest"][:36],  # the longest that MLflow stores
        source_type="corpus",
        source=json.dumps({"uri": masked(dataset["source"])}),
        schema=json.dumps({"mlflow_tensorspec": [column]}),
        profile=json.dumps({"num_rows": dataset["prompts"], "num_elements": dataset["tokens"]}),
    )
    return DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", "measurement")])
