"""The plan: a resolved model's stages become shards with stable ids. Pure: no file, no clock, no machine is asked.

A shard is one block of prompts of one model, seen by one block of writers. Blocks of prompts are fixed by the config, so
the same sweep has the same shards on any number of workers; blocks of writers follow from the model's shape and a budget
for the dense state of one shard. A stage is planned from what the one before found: ``verify`` from the targets that the
merged scan gives and from their nulls, ``adversarial`` from the places that verify found. That enters the ids, not where it
came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.workers.fingerprint import fingerprint
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS, count_bytes
from erasure_sweep.workers.measures.verify.group_rule import later_heads
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import count_positions, hash_u64
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    Group,
    GroupWork,
    Nulls,
    Numerics,
    PathsWork,
    Place,
    PlaceboWork,
    Resolved,
    ScanOptions,
    ScanWork,
    ShardTask,
    StagedArray,
    Target,
    TrustWork,
    Work,
    WriterBlock,
    writers_of,
)
from erasure_sweep.workers.version import RESULTS_VERSION

STATE_BYTES = 512 * 2**20
"""Budget for the dense state of one shard."""
SAMPLE = 1000
"""Tokens that rank correlations are from, at most; fewer where a model has so many pairs that they would not fit."""
SAMPLED_VALUES = 2**25
SCAN_STAGES = ("scan", "paths")
"""The stages that see every writer on the scanned prompts, from which its tables are."""
TRUSTED_WRITERS = 64
"""Writers of one shard of trust. Those of a layer run from that layer on together, and what is kept of them is little."""
FAMILIES = 3
"""Writers are chosen for what is erased of them, for strong pairs, and for broad erasers (``verify.targets``)."""
NULL_PROMPTS = 16
"""On how many of the scan's prompts, the first, groups are found for what stands in verified writers' places.

They are the first of those from which the writers' own groups are (``paths_prompts``), not all of them: four times as many
would cost about as much as the rest of verify. With groups from 64 prompts, β of a bundled model's placebos on other prompts
is the same to 0.007 for heads and MLPs and to 0.02 for ``embed`` (128 positions), less than half of τ.
"""
DONORS = 64
"""Prompts whose inputs one shard lends to the places under test."""
_DONOR_SALT = 2**34


class StagePlan(NamedTuple):
    """All shards of one stage of one model, blocks of writers outermost: the order in which their states are merged."""

    model: Resolved
    name: str
    """``scan``, ``paths``, ``trust``, ``covariance``, ``placebo``, ``group`` or ``adversarial``."""
    tasks: tuple[ShardTask, ...]
    n_prompts: int
    """How many prompts are read."""

    @property
    def writer_blocks(self) -> tuple[WriterBlock, ...]:
        """The distinct blocks of writers, in order."""
        works = (task.work for task in self.tasks)
        return tuple(
            dict.fromkeys(work.writers for work in works if isinstance(work, ScanWork | PathsWork | TrustWork))
        )


class _Shards:
    """Makes the shards of one model: what they have in common, and their ids.

    Args:
        numerics: with which they are measured; they decide the last digits, so they are part of the ids.
    """

    def __init__(self, config: SweepConfig, model: Resolved, numerics: Numerics) -> None:
        self._numerics = numerics
        self._model = model
        self._threads = config.cpus_per_worker
        self._shared: dict[str, Any] = {
            "model_hash": model.hash,
            "positions": config.n_positions,
            "first_position": config.first_position,
            "seed": config.seed,
            "batch": config.batch_on(numerics.device),
            "device": numerics.device,
            "dtype": config.dtype,
        }

    def make(
        self,
        stage: str,
        prompts: range,
        work: Work,
        means: StagedArray | None = None,
        covariance: StagedArray | None = None,
    ) -> ShardTask:
        result = {"stage": stage, "first_prompt": prompts.start, "n_prompts": len(prompts), **self._shared}
        model = self._model
        identity = {
            **result,
            "work": work,
            "corpus": model.corpus_fingerprint if stage in SCAN_STAGES else model.verify_fingerprint,
            "threads": self._threads,
            "numerics": self._numerics,
            "results_version": RESULTS_VERSION,
            **({"means": means.fingerprint} if means else {}),
            **({"covariance": covariance.fingerprint} if covariance else {}),
        }
        return ShardTask(
            id=digest(identity),
            work=work,
            weights=model.weights,
            tokens=model.tokens,
            means=means.path if means else None,
            covariance=covariance.path if covariance else None,
            **result,
        )


def plan_scan(config: SweepConfig, model: Resolved, numerics: Numerics) -> StagePlan:
    """Shards of one model's scan: every component as a writer."""
    shards, options = _Shards(config, model, numerics), scan_options(config, model)
    tasks = [
        shards.make("scan", prompts, ScanWork(writers, options))
        for writers in writer_blocks(model.sketches, sketch_bytes(config))
        for prompts in blocks(model.n_prompts, config.block_prompts)
    ]
    return StagePlan(model, "scan", tuple(tasks), model.n_prompts)


def plan_paths(config: SweepConfig, model: Resolved, numerics: Numerics, means: StagedArray) -> StagePlan:
    """Shards of all attention paths: every writer, on the first of the scan's prompts."""
    shards, n_prompts = _Shards(config, model, numerics), min(config.paths_prompts, model.n_prompts)
    of_all = min(config.paths_centred_prompts, n_prompts)
    tasks = [
        shards.make("paths", prompts, PathsWork(writers, prompts.start < of_all), means)
        for writers in writer_blocks(model.sketches, sketch_bytes(config))
        for prompts in (*blocks(of_all, config.block_prompts), *blocks(n_prompts, config.block_prompts, of_all))
    ]
    return StagePlan(model, "paths", tuple(tasks), n_prompts)


def plan_covariance(config: SweepConfig, model: Resolved, numerics: Numerics, targets: tuple[Target, ...]) -> StagePlan:
    """Shards of the stage behind the scan that sees how the stream varies where the verified writers write."""
    return _on_scanned(config, model, numerics, CovarianceWork(writers_of(targets)))


def plan_placebo(
    config: SweepConfig, model: Resolved, numerics: Numerics, targets: tuple[Target, ...], covariance: StagedArray
) -> StagePlan:
    """Shards of the stage that finds who takes out what stands in the verified writers' places."""
    return _on_scanned(config, model, numerics, PlaceboWork(writers_of(targets), config.placebos), covariance)


def _on_scanned(
    config: SweepConfig,
    model: Resolved,
    numerics: Numerics,
    work: CovarianceWork | PlaceboWork,
    covariance: StagedArray | None = None,
) -> StagePlan:
    shards, n_prompts = _Shards(config, model, numerics), min(NULL_PROMPTS, model.n_prompts)
    stage = "covariance" if covariance is None else "placebo"
    tasks = [
        shards.make(stage, prompts, work, covariance=covariance) for prompts in blocks(n_prompts, config.block_prompts)
    ]
    return StagePlan(model, stage, tuple(tasks), n_prompts)


def plan_trust(config: SweepConfig, model: Resolved, numerics: Numerics, means: StagedArray) -> StagePlan:
    """Shards on how far each writer's attribution can be trusted; they ask for nothing that the scan finds but means."""
    shards, (first, end) = _Shards(config, model, numerics), model.verify_prompts
    trusted, rotated = (min(first + n, end) for n in (config.trust_prompts, config.rotated_prompts))
    tasks = [
        shards.make("trust", prompts, TrustWork(WriterBlock(i.start, i.stop), config.trust_tokens, is_rotated), means)
        for i in blocks(len(model.sketches), TRUSTED_WRITERS)
        for is_rotated, stop in ((False, trusted), (True, min(rotated, trusted)))
        for prompts in paired_blocks(first, stop, config.block_prompts)
    ]
    return StagePlan(model, "trust", tuple(tasks), trusted - first)


def plan_group(
    config: SweepConfig,
    model: Resolved,
    numerics: Numerics,
    means: StagedArray,
    targets: tuple[Target, ...],
    nulls: Nulls,
) -> StagePlan:
    """Shards of what the verified targets' groups do on prompts that were not scanned."""
    shards, (first, end) = _Shards(config, model, numerics), model.verify_prompts
    work = GroupWork(targets, config.places, config.placebos, nulls.erasers)
    spans = paired_blocks(first, end, config.block_prompts)
    tasks = [shards.make("group", prompts, work, means, nulls.covariance) for prompts in spans]
    return StagePlan(model, "group", tuple(tasks), end - first)


def plan_adversarial(
    config: SweepConfig, model: Resolved, numerics: Numerics, means: StagedArray, places: tuple[Place, ...]
) -> StagePlan:
    """Shards of verify's last substage: places of high attribution under the inputs of blocks of other prompts."""
    shards, end = _Shards(config, model, numerics), n_rows(model)
    donors = draw_donors(config.seed, end, config.donors) if places else ()
    tasks = [
        shards.make(
            "adversarial",
            range(end),
            AdversarialWork(places, model.given, donors[i.start : i.stop], i.start == 0),
            means,
        )
        for i in blocks(len(donors), DONORS)
    ]
    return StagePlan(model, "adversarial", tuple(tasks), len(donors))


def expected_stages(config: SweepConfig, model: Resolved, numerics: Numerics) -> list[StagePlan]:
    """The stages as far as they are known before anything is measured: as many shards as there will be, with other ids."""
    means = StagedArray("", "")
    scan, paths = plan_scan(config, model, numerics), plan_paths(config, model, numerics, means)
    if config.verify is None:
        return [scan, paths]
    targets = most_targets(config, layout_of(model))
    found = [Place(t.writer, "found", 0, model.seq_len - 1) for t in targets for _ in range(config.places)]
    places = (*found, *given_places(targets, model.given))
    trust, tested = plan_trust(config, model, numerics, means), plan_adversarial(config, model, numerics, means, places)
    if not targets:
        return [scan, paths, trust, tested]
    nulls = [plan_covariance(config, model, numerics, targets), plan_placebo(config, model, numerics, targets, means)]
    return [scan, paths, trust, *nulls, plan_group(config, model, numerics, means, targets, Nulls(means, ())), tested]


def most_targets(config: SweepConfig, layout: Layout) -> tuple[Target, ...]:
    """As many targets as verify can have: those that the user names, or the most that the scan can find of each family."""
    read = [writer for writer in layout.writers if later_heads(layout, writer)]
    groups = config.groups or [
        Group(writer, later_heads(layout, writer)) for writer in config.writers or read[: FAMILIES * config.top]
    ]
    return tuple(Target(group.writer, group.erasers, "named") for group in groups)


def given_places(targets: tuple[Target, ...], given: tuple[tuple[int, ...], ...]) -> tuple[Place, ...]:
    """The last token of every given prompt, for every verified writer."""
    writers = writers_of(targets)
    return tuple(Place(w, "given", prompt, len(ids) - 1) for w in writers for prompt, ids in enumerate(given))


def draw_donors(seed: int, n_prompts: int, n_donors: int) -> tuple[int, ...]:
    """The first ``n_donors`` of a permutation of all prompts by a hash of seed and prompt."""
    order = np.argsort(hash_u64(seed, np.arange(n_prompts), _DONOR_SALT), kind="stable")
    return tuple(int(prompt) for prompt in order[:n_donors])


def layout_of(model: Resolved) -> Layout:
    """Order of the model's components."""
    shape = model.architecture
    return ModelConfig.from_json(shape).layout


def n_rows(model: Resolved) -> int:
    """How many prompts the token array holds."""
    return max(model.n_prompts, model.verify_prompts[1])


def measured_tokens(config: SweepConfig, model: Resolved) -> int:
    """How many tokens of the prompts that are scanned are measured."""
    return sum(count_positions(size, config.n_positions, config.first_position) * n for size, n in model.lengths)


def scan_options(config: SweepConfig, model: Resolved) -> ScanOptions:
    """What workers are told beside model and tokens: among it, which tokens are sampled for rank correlations.

    A third more than the sample is drawn, so that the lowest hashes among them are almost surely as many as it should have.
    """
    sample = min(SAMPLE, max(20, SAMPLED_VALUES // sum(model.sketches)))
    drawn = min(1.0, (1.33 * sample + 20) / measured_tokens(config, model))
    below = 2**64 if drawn == 1.0 else int(drawn * 2**64)
    return ScanOptions(
        config.ln, config.groups, config.seed, below, sample, config.block_prompts * config.measured_positions
    )


def sketch_bytes(config: SweepConfig) -> int:
    """Size of one dense sketch: counts take two bytes where a shard has few enough tokens."""
    return count_bytes(config.block_prompts * config.measured_positions) * N_BINS


def writer_blocks(sketches: tuple[int, ...], bytes_per_sketch: int) -> list[WriterBlock]:
    """Consecutive writers whose sketches fit into the budget of one shard's state; at least one in each block."""
    found, start, size = [], 0, 0
    for writer, needed in enumerate(sketches):
        size += needed * bytes_per_sketch
        if size > STATE_BYTES and writer > start:
            found.append(WriterBlock(start, writer))
            start, size = writer, needed * bytes_per_sketch
    return [*found, WriterBlock(start, len(sketches))]


def blocks(n: int, size: int, first: int = 0) -> list[range]:
    """Consecutive ranges of at most ``size`` that cover ``range(first, n)``."""
    return [range(start, min(start + size, n)) for start in range(first, n, size)]


def paired_blocks(start: int, end: int, size: int) -> list[range]:
    """Consecutive ranges of ``size`` prompts that lend each other a writer's output: never a single prompt."""
    found = [range(block.start + start, block.stop + start) for block in blocks(end - start, max(2, size))]
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [range(found[-2].start, end)]
    return found


def digest(values: Mapping[str, Any]) -> str:
    """A stable hash of plain values: 32 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return fingerprint(text)


def sweep_id(config: SweepConfig) -> str:
    """Identity of a sweep: what determines its results, without models and resources."""
    return digest(config.protocol())
