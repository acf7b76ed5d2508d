"""Measure a model in the test's own process, split as a sweep might split it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch

from erasure_sweep.workers.corpora.token_texts import TokenTexts
from erasure_sweep.workers.measures import stages
from erasure_sweep.workers.measures.interventions.placebos import Placebos
from erasure_sweep.workers.measures.interventions.verified_prompt import draws_of
from erasure_sweep.workers.measures.measure import Block, Setting
from erasure_sweep.workers.measures.registry import measures
from erasure_sweep.workers.measures.scan.paths import PathReader
from erasure_sweep.workers.measures.scan.products import ProductReader
from erasure_sweep.workers.measures.scan.projection import Projection, merge_term_means
from erasure_sweep.workers.measures.states_to_tables import merge_states, stage_tables
from erasure_sweep.workers.measures.traced_prompts import traced_prompts
from erasure_sweep.workers.measures.verify.high_places import found_places
from erasure_sweep.workers.measures.verify.null_shares import null_erasers
from erasure_sweep.workers.measures.verify.stream_covariance import stream_covariance
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    Group,
    GroupWork,
    PathsWork,
    Place,
    PlaceboWork,
    ScanOptions,
    ScanWork,
    ShardTask,
    State,
    Target,
    TrustWork,
    Work,
    WriterBlock,
    writers_of,
)


def measure_tables(
    model: LeanModel,
    tokens: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    block: int = 4,
    batch: int = 2,
    writers: int | None = None,
    tau: float = 0.05,
    ln: str = "frozen",
    groups: tuple[Group, ...] = (),
    first_position: bool = True,
    paths_centred: int = 10**9,
) -> dict[str, pd.DataFrame]:
    """Tables of a scan: prompts in blocks of ``block``, forward passes of ``batch``, ``writers`` writers in a block.

    Args:
        paths_centred: on how many prompts all families of paths are followed; whole blocks.
    """
    first = 0 if first_position else 1
    n_writers = len(model.config.layout.writers)
    size = writers or n_writers
    spans = [WriterBlock(start, min(start + size, n_writers)) for start in range(0, n_writers, size)]
    options = ScanOptions(ln=ln, groups=groups)
    merged = []
    for span in spans:
        shards = [
            measure_shard(model, span, tokens[i : i + block], _part(positions, i, block), batch, i, options, first)
            for i in range(0, len(tokens), block)
        ]
        merged_block = Block(model, ScanWork(span, options))
        states = merge_states("scan", merged_block, partial(states_of, shards))
        merged.append((merged_block, states))
    tables = stage_tables("scan", merged, Setting(tau))
    means = measure_means(model, tokens, positions, block=block, batch=batch, writers=writers, first=first)
    merged = []
    for span in spans:
        works = [(PathsWork(span, i < paths_centred), i) for i in range(0, len(tokens), block)]
        shards = [
            measure_paths(model, work, tokens[i : i + block], _part(positions, i, block), batch, i, means, first)
            for work, i in works
        ]
        merged_block = Block(model, PathsWork(span, True))
        merged.append((merged_block, merge_states("paths", merged_block, partial(states_of, shards))))
    tables |= stage_tables("paths", merged, Setting(tau), tables)
    return {name: pd.DataFrame(columns) for name, columns in tables.items()}


def measure_paths(
    model: LeanModel,
    work: PathsWork,
    tokens: np.ndarray,
    positions: np.ndarray | None,
    batch: int,
    first_prompt: int,
    means: np.ndarray,
    first: int = 1,
) -> dict[str, State]:
    """States of one shard of all attention paths, by measure."""
    reader = PathReader(model, work, torch.from_numpy(means).to(model.device, model.dtype), first)
    accumulators = {measure.name: measure.start(reader) for measure in measures("paths")}
    for trace, prompt, _ in traces(model, tokens, positions, batch, first_prompt, first):
        products = reader.read(trace, prompt)
        for accumulator in accumulators.values():
            accumulator.update(products)
    return {name: accumulator.export() for name, accumulator in accumulators.items()}


def traces(
    model: LeanModel,
    tokens: np.ndarray,
    positions: np.ndarray | None,
    batch: int,
    first_prompt: int,
    first: int,
    keep_resid: bool = False,
) -> Iterator[tuple[Trace, int, int]]:
    """Every prompt: the trace that holds it, its index there and in the corpus.

    Args:
        positions: those measured of each prompt; ``None`` for all from ``first`` on.
    """
    if positions is None:
        task = ShardTask(
            "id", "", "", "", "", first_prompt, len(tokens), None, 0, PathsWork(WriterBlock(0, 0), False), batch, "", ""
        )
        prompts = torch.from_numpy(tokens.astype(np.int64))
        task = task._replace(first_position=first == 0)
        yield from (traced[:3] for traced in traced_prompts(model, task, prompts, batch, keep_resid))
        return
    for start in range(0, len(tokens), batch):
        rows = torch.from_numpy(tokens[start : start + batch]).to(model.device)
        chosen = torch.from_numpy(positions[start : start + batch]).to(model.device)
        trace = model.trace(rows, chosen, keep_resid=keep_resid)
        yield from ((trace, prompt, first_prompt + start + prompt) for prompt in range(len(rows)))


def measure_means(
    model: LeanModel,
    tokens: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    block: int = 4,
    batch: int = 2,
    writers: int | None = None,
    first: int = 0,
) -> np.ndarray:
    """Means of the model's terms over a scan, as the first block of ``writers`` writers holds them."""
    span = WriterBlock(0, writers or len(model.config.layout.writers))
    starts = range(0, len(tokens), block)
    shards = (
        measure_shard(model, span, tokens[i : i + block], _part(positions, i, block), batch, i, ScanOptions(), first)
        for i in starts
    )
    return merge_term_means(shard[Projection.name] for shard in shards)


def measure_shard(
    model: LeanModel,
    span: WriterBlock,
    tokens: np.ndarray,
    positions: np.ndarray | None,
    batch: int,
    first_prompt: int,
    options: ScanOptions,
    first: int = 1,
) -> dict[str, State]:
    """States of one shard, by measure."""
    reader = ProductReader(model, span, options, first)
    accumulators = {measure.name: measure.start(reader) for measure in measures("scan")}
    for traced in traces(model, tokens, positions, batch, first_prompt, first, options.ln == "recompute"):
        products = reader.read(*traced)
        for accumulator in accumulators.values():
            accumulator.update(products)
    return {name: accumulator.export() for name, accumulator in accumulators.items()}


def _part(positions: np.ndarray | None, start: int, size: int) -> np.ndarray | None:
    return None if positions is None else positions[start : start + size]


def measure_verify(
    model: LeanModel,
    tokens: np.ndarray,
    targets: tuple[Target, ...],
    positions: int | None = None,
    *,
    block: int = 4,
    batch: int = 2,
    seed: int = 0,
    places: int = 4,
    given: tuple[tuple[int, ...], ...] = (),
    donors: tuple[int, ...] | None = None,
    donor_block: int = 64,
    trust_prompts: int | None = None,
    trust_tokens: int = 10**6,
    rotated_prompts: int = 0,
    writers: int | None = None,
    first_prompt: int = 0,
    tau: float = 0.05,
    held_out: bool = True,
    tokenizer: str | None = None,
    means: np.ndarray | None = None,
    first_position: bool = True,
    scanned_prompts: int = 4,
    placebos: int = 3,
) -> dict[str, pd.DataFrame]:
    """Tables of the verify stage, without their ``model`` column.

    Args:
        tokens: of all prompts of the corpus; verify measures on those from ``first_prompt`` on.
        positions: how many of each prompt are measured.
        donors: indices in the corpus; all by default.
        means: of the model's terms over the scan; by default over all prompts of the corpus.
        scanned_prompts: on how many of the corpus' first prompts the nulls' groups are found.
        placebos: how many each writer has.
    """
    if means is None:
        means = measure_means(model, tokens, first=0 if first_position else 1)
    n_writers = len(model.config.layout.writers)
    size = writers or n_writers
    spans = [WriterBlock(start, min(start + size, n_writers)) for start in range(0, n_writers, size)]

    def measured(stage: str, work: Work, prompts: range) -> dict[str, State]:
        span = (prompts.start, len(prompts))
        task = ShardTask("id", stage, "", "", "", *span, positions, seed, work, batch, "cpu", "float32")
        task = task._replace(first_position=first_position)
        placebos = None if covariance is None or stage == "adversarial" else Placebos(model, draws_of(task), covariance)
        return stages.measure_shard(model, task, tokens, batch, means, placebos)

    def scanned(work: Work, stage: str, measure: str) -> list[State]:
        spans = (range(i, min(i + block, scanned_prompts)) for i in range(0, min(scanned_prompts, len(tokens)), block))
        return [measured(stage, work, span)[measure] for span in spans]

    def shards(stage: str, work: Work, n: int | None) -> list[dict[str, State]]:
        stop = len(tokens) if n is None else min(len(tokens), first_prompt + n)
        return [measured(stage, work, span) for span in paired_blocks(first_prompt, stop, block)]

    covariance: np.ndarray | None = None

    def trusted(span: WriterBlock) -> list[dict[str, State]]:
        rotated = shards("trust", TrustWork(span, trust_tokens, True), rotated_prompts) if rotated_prompts else []
        return [*shards("trust", TrustWork(span, trust_tokens), trust_prompts), *rotated]

    blocks: list[tuple[str, Work, list[dict[str, State]]]] = [
        ("trust", TrustWork(span, trust_tokens), trusted(span)) for span in spans
    ]
    tested: tuple[Place, ...] = ()
    if targets:
        verified = writers_of(targets)
        covariance = stream_covariance(scanned(CovarianceWork(verified), "covariance", "stream_covariance"))
        shares = scanned(PlaceboWork(verified, placebos), "placebo", "null_shares")
        nulls = null_erasers(model.config.layout, targets, placebos, shares)
        work = GroupWork(targets, places, placebos, nulls)
        blocks.append(("group", work, group := shards("group", work, None)))
        tested = found_places([states["high_places"] for states in group], targets, places, seed)
    tested += tuple(Place(w, "given", i, len(p) - 1) for w in writers_of(targets) for i, p in enumerate(given))
    chosen = tuple(range(len(tokens))) if donors is None else donors
    parts = [chosen[start : start + donor_block] for start in range(0, len(chosen), donor_block)]
    if tested:
        works = [AdversarialWork(tested, given, part, part is parts[0]) for part in parts]
        blocks.append(("adversarial", works[0], [measured("adversarial", work, range(len(tokens))) for work in works]))
    setting = Setting(tau, held_out, TokenTexts(tokenizer, None, given))
    tables: dict[str, pd.DataFrame] = {}
    for stage in ("group", "trust", "adversarial"):
        merged = (
            (Block(model, work), merge_states(stage, Block(model, work), partial(states_of, states)))
            for name, work, states in blocks
            if name == stage
        )
        tables |= {name: pd.DataFrame(columns) for name, columns in stage_tables(stage, merged, setting).items()}
    return tables


def states_of(shards: list[dict[str, State]], measure: str) -> list[State]:
    """One measure's states; empty where a shard has none, as where they are read from a store."""
    return [shard[measure] for shard in shards]


def paired_blocks(start: int, stop: int, size: int) -> list[range]:
    """Consecutive blocks; a last one of a single prompt joins the block before it."""
    found = [range(first, min(first + size, stop)) for first in range(start, stop, size)]
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [range(found[-2].start, stop)]
    return found
