"""The main loop: resolve, plan, hand shards to workers, keep what comes back, finish models, log them.

The driver holds no arrays. A shard counts once its state is in the store; a model is finished, in the background process,
once all its shards are there, while others are still measured. Whatever ends a run, the next one with the same config
goes on from the store and ends in the same tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.executors import Executor, Fate, Outcome
from sweep.files import RunFolder
from sweep.logged_runs import LoggedRuns
from sweep.manifest import Manifest
from sweep.plan import ModelPlan, plan_scan
from sweep.progress import Reporter
from sweep.queue import ShardQueue
from sweep.room import Room, find_room
from sweep.staging import begin_staging, finish_staging
from sweep.store import ShardStore
from workers.errors import SweepError
from workers.records import Thresholds

log = logging.getLogger(__name__)

POLL_S = 1.0


class SweepOutcome(NamedTuple):
    """How a run ended."""

    folder: RunFolder
    manifest: dict[str, Any]
    problems: tuple[str, ...]
    """What was not measured or not logged, a line each; empty when everything was."""


@dataclass
class _Model:
    """A model on its way through the loop."""

    plan: ModelPlan
    missing: set[str]
    """Ids of the shards that are not in the store yet."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by id, of shards that were set aside."""
    batch: int = 0
    finishing: futures.Future[None] | None = None
    ended: bool = False


class Sweep:
    """One run of one sweep.

    Args:
        config: the sweep.
        reporter: hears of progress.
    """

    def __init__(self, config: SweepConfig, reporter: Reporter) -> None:
        self.config = config
        self.folder = RunFolder(config)
        self._reporter = reporter
        self._store = ShardStore(self.folder.store)
        self._queue = ShardQueue(config.attempts)
        self._models: dict[str, _Model] = {}
        self._problems: list[str] = []

    def run(self, fresh: bool = False) -> SweepOutcome:
        """Measure what is not measured yet, finish and log every model.

        Args:
            fresh: measure everything anew.

        Raises:
            SweepError: nothing could be measured, or measuring could not go on; what was measured is kept.
            KeyboardInterrupt: passed on, after everything was stopped and noted.
        """
        self.folder.acquire()
        with closing(self.folder), closing(Background()) as self._background:
            self._manifest = Manifest(self.folder, self.config, fresh)
            self._runs = LoggedRuns(self.config)
            plans, room = self._prepare()
            self._models = {plan.model.hash: _Model(plan, set(), batch=plan.tasks[0].batch) for plan in plans}
            self._manifest.refuse_other_weights(plans)
            with self._noting_the_end():
                self._manifest.start(plans, room.device)
                self._runs.start(self._manifest, plans)
                self._enqueue(fresh)
                with closing(room.executor(len(self._queue))) as executor:
                    while not all(model.ended for model in self._models.values()):
                        self._step(executor)
                    self._compare()
            return SweepOutcome(self.folder, self._manifest.values, tuple(self._problems + self._runs.problems))

    def _prepare(self) -> tuple[list[ModelPlan], Room]:
        """Stage and plan: everything that can be wrong with the input is found here, before anything is measured."""
        begun = begin_staging(self.config, self._background)
        self._runs.check()
        models = finish_staging(self.config, begun, self._reporter)
        room = find_room(self.config, self._background)
        return [plan_scan(self.config, model, room.device) for model in models], room

    def _enqueue(self, fresh: bool) -> None:
        for model in self._models.values():
            plan = model.plan
            ids = [task.id for task in plan.tasks]
            if fresh:
                self._store.discard(ids)
            done = self._store.finished(ids)
            self._queue.add(task for task in plan.tasks if task.id not in done)
            model.missing = set(ids) - done
            self._reporter.start_model(plan.model.name, len(done), len(ids), plan.model.n_prompts / len(ids))

    def _step(self, executor: Executor) -> None:
        """Hand out, take in, finish what is complete."""
        holders = executor.holders()
        for worker in executor.idle():
            if task := self._queue.take(worker.model_hash, holders):
                holders[task.model_hash] += 1
                executor.submit(worker, task)
        outcomes = executor.wait(POLL_S)
        for outcome in outcomes:
            self._take_in(outcome)
        for model in self._models.values():
            self._advance(model)
        if not outcomes and not self._queue:
            futures.wait([m.finishing for m in self._models.values() if m.finishing and not m.ended], timeout=POLL_S)

    def _take_in(self, outcome: Outcome) -> None:
        task, model = outcome.task, self._models[outcome.task.model_hash]
        name = model.plan.model.name
        if outcome.fate is Fate.MEASURED:
            assert outcome.result is not None
            if task.id in model.missing:
                self._store.put(task.id, outcome.result.state)
                model.missing.discard(task.id)
                log.info("shard %s of %s measured", task.id, name)
                self._reporter.advance(name)
            self._note_batch(model, outcome.result.batch)
            return
        log.warning("shard %s of %s %s: %s", task.id, name, outcome.fate.value, outcome.reason)
        if outcome.fate is Fate.LOST:
            self._queue.put_back(task)
        elif task.id in model.missing and self._queue.fail(task, waiting=outcome.fate is Fate.CRASHED):
            model.failed[task.id] = outcome.reason.splitlines()[-1]

    def _note_batch(self, model: _Model, batch: int) -> None:
        """Say once, and record, that memory did not suffice for the planned batch."""
        if batch < model.batch:
            name, model.batch = model.plan.model.name, batch
            self._reporter.say(f"{name}: out of GPU memory, going on with {batch} prompts in a forward pass")
            self._manifest.update(name, batch=batch)

    def _advance(self, model: _Model) -> None:
        """Take a model one step towards its end, if it is ready for one."""
        if model.ended or model.missing - set(model.failed):
            return
        if model.failed:
            self._end_failed(model)
        elif model.finishing is None:
            model.finishing = self._background.submit("sweep.finish:finish_model", *self._finish_arguments(model.plan))
        elif model.finishing.done():
            model.finishing.result()
            model.ended = True
            self._manifest.update(model.plan.model.name, state="FINISHED")
            self._runs.log_model(model.plan.model, self.folder, self._manifest.entry(model.plan.model.name))

    def _end_failed(self, model: _Model) -> None:
        name, (shard, reason) = model.plan.model.name, next(iter(model.failed.items()))
        line = (
            f"{name}: {len(model.failed)} of {len(model.plan.tasks)} shards failed {self.config.attempts} times, "
            f"the first being {shard} ({reason}); see {self.folder.log}"
        )
        model.ended = True
        self._problems.append(line)
        self._reporter.say(line)
        self._manifest.update(name, state="FAILED", reason=line)
        self._runs.end_model(model.plan.model.hash, "FAILED", line)

    def _finish_arguments(self, plan: ModelPlan) -> tuple[Any, ...]:
        blocks = [
            (writers, [self._store.path(task.id) for task in plan.tasks if task.writers == writers])
            for writers in plan.writer_blocks
        ]
        finished = {**self._manifest.entry(plan.model.name), "state": "FINISHED"}
        places = (self.folder.tables(finished["folder"]), self.folder.model_page(finished["folder"]))
        told = (plan.tasks[0].options, Thresholds(self.config.tau), self._manifest.values)
        return (finished, Path(plan.model.weights), blocks, *told, *places)

    def _compare(self) -> None:
        """Write the page that puts the models side by side, and end the sweep."""
        self._background.submit("sweep.finish:compare_models", self.folder.out, self.folder.comparison).result()
        self._runs.end_sweep(self.folder, "FAILED" if self._problems else "FINISHED")

    @contextmanager
    def _noting_the_end(self) -> Iterator[None]:
        """Whatever ends a run before its time is noted in the manifest and in MLflow."""
        try:
            yield
        except KeyboardInterrupt:
            self._note_all("KILLED", "interrupted")
            raise
        except Exception as error:
            self._note_all("FAILED", str(error) if isinstance(error, SweepError) else repr(error))
            raise

    def _note_all(self, state: Any, reason: str) -> None:
        """What cannot be noted, on a full disk, must not hide why the run ends."""
        unfinished = [model.plan.model for model in self._models.values() if not model.ended]
        try:
            for model in unfinished:
                self._manifest.update(model.name, state=state, reason=reason)
        except SweepError:
            log.warning("the end could not be noted in the manifest", exc_info=True)
        for model in unfinished:
            self._runs.end_model(model.hash, state, reason)
        self._runs.end_sweep(self.folder, state)
