"""A sweep of shards that measure nothing: what is left is driver, Ray and store. Run as a probe, in a process of its own.

Everything but the measuring is the real thing: the driver's loop, its queue, Ray's actors, the store, MLflow. What gives way
is staging (one model that is not there), the stages (one of so many shards, and nothing to merge) and the worker's
``measure``, which returns a state of the size of a small model's at once.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock

from erasure_sweep.sweep.config import SweepConfig, build_config
from erasure_sweep.sweep.model_steps import Step
from erasure_sweep.sweep.plan import StagePlan, digest
from erasure_sweep.sweep.run import Run
from erasure_sweep.workers.records import Resolved, ScanOptions, ScanWork, ShardResult, ShardTask, WriterBlock
from erasure_sweep.workers.storage.states import encode_states
from erasure_sweep.workers.worker import RemoteShardWorker
from tests.benchmarks.probe import TimingReporter
from tests.support.models.random_models import random_config

STATE_BYTES = 50_000
"""About what a shard of a bundled model takes in the store."""


class NoOpWorker(RemoteShardWorker):
    """A worker that answers at once."""

    def __init__(self, threads: int) -> None:
        import numpy as np

        noise = np.random.default_rng(0).integers(0, 256, STATE_BYTES, dtype=np.uint8)  # which does not compress
        self._states = {"noop": {"noise": noise}}
        super().__init__(threads)

    def measure(self, task: ShardTask, weights: bytes | None = None, tokens: bytes | None = None) -> ShardResult:
        return ShardResult(task.id, encode_states(self._states, task.id), task.batch)


def noop_worker(*told: str) -> Any:
    """As ``shard_worker_actor``."""
    import ray

    return ray.remote(max_restarts=-1, max_task_retries=0)(NoOpWorker)


def no_model(folder: Path) -> Resolved:
    """A model of which only the name is needed; its files are there, for who looks."""
    weights, tokens = folder / "weights", folder / "tokens"
    weights.touch()
    tokens.touch()
    config = random_config(1, 1, 8)
    return Resolved(
        name="noop",
        spec="noop",
        hash=digest({"model": "noop"}),
        weights=str(weights),
        weights_bytes=0,
        architecture=config.to_json(),
        n_params=0,
        sketches=(1,),
        tokens=str(tokens),
        corpus_fingerprint="0" * 32,
        corpus_description="nothing",
        n_prompts=1,
        seq_len=2,
        lengths=((2, 1),),
    )


class OneStage:
    """Stands for ``sweep.model_steps.ModelStages``: one stage of ``n`` shards."""

    def __init__(self, n: int, folder: Any, manifest: Any, model: Resolved) -> None:
        self._n, self._folder, self._manifest, self.model = n, folder, manifest, model

    def steps(self) -> Generator[Step, Any, None]:
        yield StagePlan(self.model, "scan", tuple(self._task(i) for i in range(self._n)), self._n)
        entry = self._manifest.entry(self.model.name)
        for made in (self._folder.tables(entry.folder), self._folder.figures(entry.folder)):
            made.mkdir(parents=True)
        self._folder.model_page(entry.folder).touch()  # MLflow is given it

    def _task(self, i: int) -> ShardTask:
        return ShardTask(
            id=digest({"shard": i}),
            stage="scan",
            model_hash=self.model.hash,
            weights=self.model.weights,
            tokens=self.model.tokens,
            first_prompt=i,
            n_prompts=1,
            positions=None,
            seed=0,
            work=ScanWork(WriterBlock(0, 1), ScanOptions()),
            batch=1,
            device="cpu",
            dtype="float32",
        )


def noop_config(folder: Path, n_workers: int, store: str | None = None) -> SweepConfig:
    """The sweep's config."""
    values = {"name": "noop", "models": ["noop"], "stage": "scan", "device": "cpu", "workers": n_workers}
    places = {"out": str(folder / "out"), "staging": str(folder), "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"}
    return build_config({**values, **places, "store": store})


def probe_noop(request: dict[str, Any]) -> dict[str, Any]:
    """Shards of nothing through driver, Ray and store.

    Args:
        request: ``n_shards``, ``n_workers`` (0: in this process, without Ray) and the ``folder`` to work in.
    """
    from erasure_sweep.sweep.driver import SweepDriver

    folder, reporter = Path(request["folder"]), TimingReporter()
    model = no_model(folder)

    class Staged:
        def __init__(self, *told: object) -> None: ...

        def finish(self, *told: object) -> list[Resolved]:
            return [model]

    def stages(run: Run, resolved: Resolved, numerics: object, store: object, manifest: Any) -> OneStage:
        return OneStage(request["n_shards"], run.folder, manifest, resolved)

    with (
        mock.patch("erasure_sweep.sweep.driver.ModelStaging", Staged),
        mock.patch("erasure_sweep.sweep.driver.ModelStages", stages),
        mock.patch("erasure_sweep.sweep.execution.ray.executor.shard_worker_actor", noop_worker),
        mock.patch("erasure_sweep.workers.worker.ShardWorker", NoOpWorker),
        mock.patch(
            "erasure_sweep.sweep.driver.SweepDriver._compare", lambda sweep: sweep._logged.end_sweep("FINISHED")
        ),
    ):
        outcome = SweepDriver(Run.of(noop_config(folder, request["n_workers"])), reporter).measure()
    if outcome.problems:
        raise RuntimeError(outcome.problems[0])
    return {
        "ends_s": reporter.ends_s,
        "rss_bytes": reporter.rss_bytes,
        "own_cpu_s": reporter.own_cpu_s,
        "descendants_cpu_s": reporter.descendants_cpu_s,
    }
