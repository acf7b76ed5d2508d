"""The stages of one model, in their order: which shards come next, and what has to be worked out between them.

A model is scanned; from the merged scan follow the targets that are verified, and what stands in their writers' places as
nulls, which is found on the scan's prompts as well; verify measures their groups; from what it found follow the places that
are tested with other prompts' inputs. How far attributions can be trusted is measured while the scan is merged. What happens
between stages, merging above all, happens in the background process, while other models are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from erasure_sweep.sweep.helper.tasks import (
    MeansMerge,
    NamedTargets,
    NullMerge,
    PageRequest,
    PlaceSearch,
    ScanMerge,
    VerifyMerge,
    find_null_erasers,
    find_places,
    finish_scan,
    finish_verify,
    stage_covariance,
    stage_means,
    write_page,
)
from erasure_sweep.sweep.manifest_writer import ManifestKeeper
from erasure_sweep.sweep.plan import (
    StagePlan,
    given_places,
    layout_of,
    plan_adversarial,
    plan_covariance,
    plan_group,
    plan_paths,
    plan_placebo,
    plan_scan,
    plan_trust,
    scan_options,
)
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.store.shards import ShardStore, VerifyKeys, block_keys, keys_of
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.records import ChosenTargets, Nulls, Numerics, Resolved, StagedArray, Target, Thresholds

Task = Callable[[], Any]
"""A call for the helper process, whose result the stages go on with."""


class Ahead(NamedTuple):
    """Shards that can be measured while what comes next is worked out; ``AllMeasured`` waits for them."""

    plan: StagePlan


class AllMeasured(NamedTuple):
    """All shards that were begun are to be measured before what comes next."""


class Draw(NamedTuple):
    """The model is measured and its tables are written: what is left is to draw its page, which holds nobody up."""

    task: Task


Step = StagePlan | Ahead | AllMeasured | Draw | Task

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


def in_helper(function: Callable[[_Request], _Result], request: _Request) -> Generator[Step, Any, _Result]:
    """Have one of ``sweep.helper.tasks`` done before the next stage, and return what it returns."""
    result: _Result = yield partial(function, request)
    return result


class ModelStages:
    """The way of one model through a sweep.

    Args:
        run: tables and the page are written into its folder.
        numerics: with which it is measured.
        store: where finished shards are.
        manifest: notes how far the model is.

    Raises:
        UsageError: verify alone is asked for, and no whole scan is stored.
    """

    def __init__(
        self, run: Run, model: Resolved, numerics: Numerics, store: ShardStore, manifest: ManifestKeeper
    ) -> None:
        self._run = run
        self.model = model
        self._numerics = numerics
        self._store = store
        self._manifest = manifest
        if run.config.stage == "verify":
            self._check_scan()

    def _check_scan(self) -> None:
        """See that the whole scan is stored: what is verified, and against which means, follows from it."""
        ids = {task.id for task in plan_scan(self._run.config, self.model, self._numerics).tasks}
        missing = len(ids - self._store.finished(ids))
        if missing:
            raise UsageError(
                f"--stage verify needs the scan of {self.model.name}, and {missing} of its {len(ids)} shards are not in "
                f"{self._store.address}: first `erasure-sweep run … --stage scan`, or leave out --stage"
            )

    def steps(self) -> Generator[Step, Any, None]:
        """The stages to measure, and the calls between them, whose results are sent back."""
        config = self._run.config
        means, scan = yield from self._scan()
        trust = None
        if config.verify is not None:
            trust = plan_trust(config, self.model, self._numerics, means)
            yield Ahead(trust)
        chosen = yield from in_helper(finish_scan, scan)
        self._manifest.note_stage(self.model.name, "scan")
        if trust is not None:
            yield from self._verify(means, chosen, trust)
        manifest = self._manifest.manifest.with_entry(self.model.name, state="FINISHED")
        yield Draw(partial(write_page, PageRequest(self.model.name, manifest, self._run.folder.out)))

    def _scan(self) -> Generator[Step, Any, tuple[StagedArray, ScanMerge]]:
        """Measure the scan; the means that the stages behind it need, and what is to be merged."""
        config, model = self._run.config, self.model
        plan = plan_scan(config, model, self._numerics)
        yield plan
        blocks = block_keys(plan.tasks)
        first = MeansMerge(model.weights, self._store.location, blocks[0][1])
        means = yield from in_helper(stage_means, first)
        paths = plan_paths(config, model, self._numerics, means)
        yield paths
        return means, ScanMerge(
            model,
            self._store.location,
            blocks,
            block_keys(paths.tasks),
            scan_options(config, model),
            Thresholds(config.tau),
            NamedTargets(tuple(config.writers), config.groups, config.top),
            self._tables,
        )

    def _verify(self, means: StagedArray, chosen: ChosenTargets, trust: StagePlan) -> Generator[Step, Any, None]:
        config, model, store = self._run.config, self.model, self._store.location
        first, end = model.verify_prompts
        targets = chosen.targets
        self._manifest.note_targets(model.name, chosen, n_verify_prompts=end - first, held_out=model.held_out)
        yield AllMeasured()
        nulls, group, places = None, [], given_places(targets, model.given)
        if targets:
            nulls = yield from self._nulls(targets)
            plan = plan_group(config, model, self._numerics, means, targets, nulls)
            yield plan
            group = keys_of(plan.tasks)
        if group and config.places:
            search = PlaceSearch(store, group, targets, config.places, config.seed)
            found = yield from in_helper(find_places, search)
            places = (*found, *places)
        tested = plan_adversarial(config, model, self._numerics, means, places)
        if tested.tasks:
            yield tested
        shards = VerifyKeys(group, block_keys(trust.tasks), keys_of(tested.tasks))
        merge = VerifyMerge(model, store, shards, targets, nulls, places, config.tau, config.trust_limits, self._tables)
        yield from in_helper(finish_verify, merge)
        self._manifest.note_stage(model.name, "verify")

    def _nulls(self, targets: tuple[Target, ...]) -> Generator[Step, Any, Nulls]:
        """What stands in the verified writers' places, from some of the scan's prompts."""
        config, model, store = self._run.config, self.model, self._store.location
        plan = plan_covariance(config, model, self._numerics, targets)
        yield plan
        merge = MeansMerge(model.weights, store, keys_of(plan.tasks))
        covariance = yield from in_helper(stage_covariance, merge)
        plan = plan_placebo(config, model, self._numerics, targets, covariance)
        yield plan
        found = NullMerge(layout_of(model), store, keys_of(plan.tasks), targets, config.placebos)
        return Nulls(covariance, (yield from in_helper(find_null_erasers, found)))

    @property
    def _tables(self) -> Path:
        return self._run.folder.tables(self._manifest.entry(self.model.name).folder)
