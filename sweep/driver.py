"""The main loop: resolve, plan, hand shards to workers, keep what comes back, take models from stage to stage, log them.

The driver holds no arrays. A shard counts once its state is in the store; a model goes on once all shards of its stage are
there, while others are still measured. Whatever ends a run, the next one with the same config goes on from the store and
ends in the same tables.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent import futures
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from erasure_sweep.sweep.driver_claim import DriverClaim
from erasure_sweep.sweep.execution.choose_executor import MeasuringPlace, find_room
from erasure_sweep.sweep.execution.executor import Executor, LateExecutor, ShardFate, ShardReport
from erasure_sweep.sweep.execution.shard_queue import ShardQueue
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import ComparisonRequest, compare_models, discard_damaged_tables
from erasure_sweep.sweep.manifest_writer import ManifestKeeper
from erasure_sweep.sweep.model_steps import Ahead, AllMeasured, Draw, ModelStages, Step
from erasure_sweep.sweep.plan import SCAN_STAGES, StagePlan
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.run_folder import RunFolder
from erasure_sweep.sweep.staging import ModelStaging
from erasure_sweep.sweep.store.driver_process import InUseError
from erasure_sweep.sweep.store.shards import ShardStore
from erasure_sweep.sweep.terminal.progress import Reporter, count
from erasure_sweep.sweep.tracking.logged_runs import LoggedRuns
from erasure_sweep.sweep.tracking.tracker import Status
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.records import Numerics, Resolved
from erasure_sweep.workers.storage.shard_storage import open_storage

log = logging.getLogger(__name__)

POLL_S = 1.0
PROGRESS_EVERY_S = 5.0
LOOKAHEAD = 2_000
"""Shards that may wait before another model is begun: so many models need no more of the driver's memory than a few."""


class SweepOutcome(NamedTuple):
    """How a run ended."""

    folder: RunFolder
    manifest: Manifest
    names: tuple[str, ...]
    """Of the models that it was asked for."""
    problems: tuple[str, ...]
    """What was not measured or not logged, a line each; empty when everything was."""


@dataclass
class _Model:
    """A model on its way through the loop."""

    resolved: Resolved
    steps: Generator[Step, Any, None]
    batch: int
    plan: StagePlan | None = None
    """The stage that is measured."""
    missing: set[str] = field(default_factory=set)
    """Ids of its shards that are not in the store yet."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by id, of those missing that were set aside."""
    waits: bool = False
    """Whether it goes on only once these are measured."""
    call: futures.Future[Any] | None = None
    """What is worked out before the next stage."""
    is_drawn: bool = False
    """Whether that is its page, the last that there is to do."""
    ended: bool = False


class SweepDriver:
    """One run of one sweep.

    Args:
        run: which.
        reporter: hears of progress.
    """

    def __init__(self, run: Run, reporter: Reporter) -> None:
        self._run = run
        self._reporter = reporter
        self._store = ShardStore(open_storage(run.store), reporter.say)
        self._queue = ShardQueue(run.config.attempts)
        self._models: dict[str, _Model] = {}
        self._unbegun: deque[_Model] = deque()
        self._begun: list[_Model] = []
        """Those whose shards wait, are measured or were just measured."""
        self._noted = 0.0
        """When progress was last noted, by the monotonic clock."""
        self._problems: list[str] = []
        self._comparing: futures.Future[list[str]] | None = None

    def measure(self) -> SweepOutcome:
        """Measure what is not measured yet, finish and log every model.

        Raises:
            SweepError: nothing could be measured, or measuring could not go on; what was measured is kept.
            KeyboardInterrupt: passed on, after everything was stopped and noted.
        """
        run = self._run
        with (
            run.folder.held_by(run.driver),
            closing(DriverClaim(run, self._reporter.say)) as self._presence,
            closing(HelperProcess(say=self._reporter.say)) as self._background,
            closing(HelperProcess(say=self._reporter.say)) as self._drawing,
            closing(LoggedRuns(run, self._reporter)) as self._logged,
            ExitStack() as endings,
        ):
            self._manifest = ManifestKeeper(run, self._reporter.say)
            self._presence.start()
            models, room = self._prepare()
            endings.callback(room.close)
            self._room, self._numerics = room, self._choose_numerics(room)
            self._manifest.refuse_other_weights(models)
            self._manifest.name_folders(models)
            stages = [ModelStages(run, model, self._numerics, self._store, self._manifest) for model in models]
            batch = run.config.batch_on(room.device)
            self._models = {each.model.hash: _Model(each.model, each.steps(), batch) for each in stages}
            self._unbegun.extend(self._models.values())
            self._set_replaced_aside(models)
            with self._noting_the_end():
                self._manifest.start(models, self._numerics)
                self._discard_damaged(models)
                self._logged.start(self._manifest, models)
                with closing(LateExecutor(self._start_executor)) as executor:
                    while self._unbegun or self._begun:
                        self._step(executor)
                self._compare()
            names, problems = tuple(model.name for model in models), (*self._problems, *self._logged.problems)
            return SweepOutcome(run.folder, self._manifest.manifest, names, problems)

    def _prepare(self) -> tuple[list[Resolved], MeasuringPlace]:
        """Stage everything: what can be wrong with the input is found here, before anything is measured."""
        staging = ModelStaging(self._run, self._background)
        self._logged.check()
        models = staging.finish(self._reporter, self._manifest.names)
        self._presence.uses(models)
        return models, find_room(self._run.config, self._background)

    def _choose_numerics(self, room: MeasuringPlace) -> Numerics:
        """With which numerics is measured: those of the shards that are stored, so that none is mixed with others."""
        kept = None if self._run.fresh else self._store.numerics(room.device)
        return kept or room.numerics(self._background, self._reporter.say)

    def _start_executor(self) -> Executor:
        if not self._run.fresh:
            self._store.note_numerics(self._numerics)
        return self._room.executor(self._numerics, self._store.share(), self._reporter.say)

    def _set_replaced_aside(self, models: list[Resolved]) -> None:
        """Keep results of other weights, whose place a model takes, until its own are whole."""
        for model in models:
            if folder := self._manifest.folder_of_other(model):
                self._run.folder.set_aside(folder)

    def _discard_damaged(self, models: list[Resolved]) -> None:
        """Remove tables of an earlier run that are damaged: they are made anew from finished shards."""
        folders = [self._run.folder.tables(self._manifest.entry(model.name).folder) for model in models]
        stages = ("scan", "verify") if self._run.config.stage == "all" else (self._run.config.stage,)
        for line in self._background.submit(discard_damaged_tables, folders, stages).result():
            self._reporter.say(line)

    def _step(self, executor: Executor) -> None:
        """Take models further, hand out, take in."""
        self._presence.check()
        self._advance_models()
        executor.scale(self._queue.waiting())
        if self._queue:
            holders = executor.holders()
            for worker in executor.idle():
                if task := self._queue.take(worker.model_hash, holders, worker.gpus):
                    holders[task.model_hash] += 1
                    executor.submit(worker, task)
        outcomes = executor.wait(POLL_S)
        for outcome in outcomes:
            self._take_in(outcome)
        self._note_progress()
        calls = [model.call for model in self._begun if model.call]
        if calls and not outcomes and not self._queue:
            futures.wait(calls, timeout=POLL_S, return_when=futures.FIRST_COMPLETED)

    def _take_in(self, outcome: ShardReport) -> None:
        task, model = outcome.task, self._models[outcome.task.model_hash]
        name = model.resolved.name
        if outcome.fate is ShardFate.MEASURED:
            assert outcome.result is not None
            if task.id in model.missing:
                self._store.put(task.id, outcome.result.state)
                model.missing.discard(task.id)
                model.failed.pop(task.id, None)
                log.info("shard %s of %s measured (%s)", task.id, name, task.stage)
                self._reporter.advance(name)
            if outcome.result.batch < model.batch:
                model.batch = outcome.result.batch
                self._reporter.say(f"{name}: out of GPU memory, going on with {model.batch} prompts in a forward pass")
                self._manifest.update(name, batch=model.batch)
            return
        log.warning("shard %s of %s %s (%s): %s", task.id, name, outcome.fate.value, task.stage, outcome.reason)
        if outcome.fate is ShardFate.LOST:
            self._queue.put_back(task)
        elif task.id in model.missing and self._queue.fail(task, waiting=outcome.fate is ShardFate.CRASHED):
            model.failed[task.id] = outcome.reason.splitlines()[-1]

    def _note_progress(self, every_s: float = PROGRESS_EVERY_S) -> None:
        """Keep in the manifest how far the models are, for who looks at OUT meanwhile."""
        if time.monotonic() - self._noted >= every_s:
            self._noted = time.monotonic()
            measured = [(model.resolved.name, model.plan, model.missing) for model in self._begun]
            self._manifest.note_progress({n: len(plan.tasks) - len(left) for n, plan, left in measured if plan})

    def _advance_models(self) -> None:
        """Take every model that was begun further, and begin others while few shards wait."""
        for model in self._begun:
            self._advance(model)
        self._begun = [model for model in self._begun if not model.ended]
        while self._unbegun and len(self._queue) < LOOKAHEAD:
            model = self._unbegun.popleft()
            self._begun.append(model)
            self._advance(model)
        if self._begun and not self._unbegun and all(model.is_drawn for model in self._begun):
            self._begin_comparing()

    def _advance(self, model: _Model) -> None:
        """Take a model from one step to the next, as far as it is ready."""
        while not model.ended and (model.call is None or model.call.done()):
            if not model.waits or not model.missing:
                self._go_on(model)
            elif len(model.missing) == len(model.failed):
                self._end_failed(model)
            else:
                return

    def _go_on(self, model: _Model) -> None:
        """Begin a model's next step, with what the last one came to."""
        result = model.call.result() if model.call else None
        model.call = None
        try:
            step = model.steps.send(result)
        except StopIteration:
            self._end_finished(model)
            return
        model.waits = isinstance(step, StagePlan | AllMeasured)
        if isinstance(step, StagePlan):
            self._begin(model, step)
        elif isinstance(step, Ahead):
            self._begin(model, step.plan)
        elif isinstance(step, Draw):
            model.call, model.is_drawn = self._drawing.submit(step.task), True
        elif not isinstance(step, AllMeasured):
            model.call = self._background.submit(step)

    def _begin(self, model: _Model, plan: StagePlan) -> None:
        """Put the shards of a stage into the queue, but for those that are stored."""
        model.plan, ids = plan, [task.id for task in plan.tasks]
        anew = self._run.fresh and not (plan.name in SCAN_STAGES and self._run.config.stage == "verify")
        done = set() if anew else self._store.finished(ids)  # each is replaced when the new one is whole
        model.missing = set(ids) - done
        gpus = self._room.gpus_for(model.resolved)
        self._queue.add(task._replace(gpus=gpus) for task in plan.tasks if task.id not in done)
        self._manifest.update(model.resolved.name, stage=plan.name, shards=len(ids), shards_done=len(done))
        log.info("%s: %s: %d shards, %d already measured", model.resolved.name, plan.name, len(ids), len(done))
        self._reporter.start_stage(model.resolved.name, plan.name, len(done), len(ids), plan.n_prompts / len(ids))

    def _end_finished(self, model: _Model) -> None:
        name = model.resolved.name
        self._store.note_numerics(self._numerics)
        self._run.folder.forget_set_aside(self._manifest.entry(name).folder)
        self._manifest.update(name, state="FINISHED")
        self._logged.log_model(model.resolved, self._manifest.entry(name))
        model.ended, model.plan = True, None  # last: an interrupt meanwhile closes its run

    def _end_failed(self, model: _Model) -> None:
        name, (shard, reason) = model.resolved.name, next(iter(model.failed.items()))
        assert model.plan is not None
        line = (
            f"{name}: {len(model.failed)} of {count(len(model.plan.tasks), 'shard')} of {model.plan.name} failed "
            f"{self._run.config.attempts} times, the first being {shard} ({reason}); see {self._run.folder.log}"
        )
        self._problems.append(line)
        self._reporter.say(line)
        done = len(model.plan.tasks) - len(model.missing)
        self._manifest.update(name, state="FAILED", reason=line, shards_done=done)
        self._logged.end_model(model.resolved.hash, "FAILED", line)
        model.ended, model.plan = True, None

    def _begin_comparing(self) -> None:
        """Write the page that puts the models side by side, beside the last pages of models."""
        if self._comparing is None:
            manifest = self._manifest.manifest
            for model in self._begun:
                manifest = manifest.with_entry(model.resolved.name, state="FINISHED")
            self._comparing = self._background.submit(compare_models, ComparisonRequest(manifest, self._run.folder.out))

    def _compare(self) -> None:
        """See that the models stand side by side, and end the sweep."""
        self._begin_comparing()
        assert self._comparing is not None
        for line in self._comparing.result():
            self._problems.append(line)
            self._reporter.say(line)
        self._logged.end_sweep("FAILED" if self._problems else "FINISHED")

    @contextmanager
    def _noting_the_end(self) -> Iterator[None]:
        """Whatever ends a run before its time is noted in the manifest and in MLflow."""
        try:
            yield
        except KeyboardInterrupt:
            self._note_all("KILLED", "interrupted")
            raise
        except InUseError as error:  # the runs in MLflow are the other driver's now
            self._note_models("FAILED", str(error))
            raise
        except Exception as error:
            self._note_all("FAILED", str(error) if isinstance(error, SweepError) else repr(error))
            raise

    def _note_all(self, state: Status, reason: str) -> None:
        unfinished = self._note_models(state, reason)
        self._logged.end_early([model.hash for model in unfinished], state, reason)

    def _note_models(self, state: Status, reason: str) -> list[Resolved]:
        """The models that are not measured whole, noted as such; what cannot be noted must not hide why the run ends."""
        unfinished = [model.resolved for model in self._models.values() if not model.ended]
        try:
            self._note_progress(0)
            for model in unfinished:
                self._manifest.update(model.name, state=state, reason=reason)
        except SweepError:
            log.warning("the end could not be noted in the manifest", exc_info=True)
        return unfinished
