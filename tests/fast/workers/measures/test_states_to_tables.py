"""Tables of a large model: no Python call for each pair of a writer and a head, and little memory beside the tables'."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest

from erasure_sweep.workers.measures.measure import Block, Setting
from erasure_sweep.workers.measures.scan.composition import PairRows
from erasure_sweep.workers.measures.scan.erasers import N_DIRECTIONS
from erasure_sweep.workers.measures.scan.v_composition import KINDS
from erasure_sweep.workers.measures.states_to_tables import merge_states, stage_tables
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.records import Group, PathsWork, ScanOptions, ScanWork, State, WriterBlock
from erasure_sweep.workers.tables.columns import Columns
from tests.support.models.random_models import RandomLean, random_lean

N_LAYERS, N_HEADS, N_SHARDS, TOKENS, SAMPLED = 16, 16, 2, 8, 20
GROUP = Group("L0H0", ("L3H1", "L5H2"))


@pytest.fixture(scope="module")
def lean() -> RandomLean:
    return random_lean(0, N_LAYERS, N_HEADS, 32, d_head=2, d_mlp=8, d_vocab=7, n_ctx=8)


def blocks_of(lean: RandomLean, size: int) -> list[Block[ScanWork]]:
    n, options = len(lean.config.layout.writers), ScanOptions(groups=(GROUP,))
    spans = (WriterBlock(start, min(start + size, n)) for start in range(0, n, size))
    return [Block(lean.model, ScanWork(span, options)) for span in spans]


def sketches(draw: np.random.Generator, n: int) -> State:
    """Counts of a few tokens in each of many sketches."""
    bins = np.sort(draw.integers(0, N_BINS // 8, (n, 4)) * 8 + np.arange(4), axis=1)
    position = (np.arange(n)[:, None] * N_BINS + bins).ravel()
    return {
        "count_gap": np.diff(position, prepend=0).astype(np.uint32),
        "count": draw.integers(1, 4, position.size).astype(np.uint32),
    }


def invented_states(lean: RandomLean, block: Block[ScanWork], seed: int) -> dict[str, State]:
    """What a shard could have exported: of the right shapes, with numbers that mean nothing."""
    draw, layout = np.random.default_rng(seed), lean.config.layout
    rows = PairRows(layout, block.work.writers, block.work.options.groups)
    n_writers, n_terms, n_rows = len(rows.labels), len(layout.terms), len(rows)
    vectors = draw.normal(size=(n_terms, TOKENS))
    comoment = vectors @ vectors.T
    mine = block.work.writers
    terms = [layout.term_index[label] for label in layout.writers[mine.start : mine.stop]]
    n_tokens = np.array(TOKENS)
    return {
        "projection": {
            **sketches(draw, n_writers * (len(layout.rows) + len(layout.states))),
            "ratio_sum": draw.normal(size=(n_writers, len(layout.rows))),
            "scaled": draw.uniform(size=(2, n_writers, len(layout.states))),
            "term_mean": draw.normal(size=(n_terms, lean.config.d_model)),
            "comoment": comoment[terms],
            "n": np.full(n_writers, TOKENS),
            "n_tokens": n_tokens,
        },
        "v_composition": {
            **sketches(draw, len(KINDS) * n_rows),
            "product": draw.normal(size=n_rows),
            "product_first": draw.normal(size=n_rows),
            "mixed": draw.normal(size=(n_rows, lean.config.d_head)),
            "power": draw.uniform(1, 2, n_writers),
            "writer_mean": draw.normal(size=(n_writers, lean.config.d_model)),
            "n_tokens": n_tokens,
        },
        "dla": {
            "mean": draw.normal(size=n_terms),
            "comoment": comoment,
            "part_mean": draw.normal(size=n_rows),
            "part_square": draw.uniform(1, 2, n_rows),
            "part_product": draw.normal(size=n_rows),
            "n_tokens": n_tokens,
            "sample_size": np.array(SAMPLED),
            "sample_hash": draw.integers(0, 2**63, SAMPLED // 2).astype(np.uint64),
            "sample_dla": draw.normal(size=(SAMPLED // 2, n_terms)).astype(np.float32),
            "sample_parts": draw.normal(size=(SAMPLED // 2, n_rows)).astype(np.float32),
        },
        "erasers": {
            "sums": draw.normal(size=(layout.n_layers, N_DIRECTIONS + 1, lean.config.d_model)),
            "counts": np.append(draw.normal(size=N_DIRECTIONS), TOKENS),
            "passed": draw.uniform(1, 2, (layout.n_layers, layout.n_heads)),
        }
        if mine.start == 0
        else {},
    }


def invented_paths(lean: RandomLean, block: Block[ScanWork], seed: int) -> dict[str, State]:
    """What a shard of all attention paths of this block of writers might hold."""
    draw, layout = np.random.default_rng(seed), lean.config.layout
    n_rows, n_writers = len(PairRows(layout, block.work.writers)), len(block.work.writers.labels(layout))
    shares = {
        "along": draw.normal(size=(2, 3, n_rows)),
        "power": draw.uniform(1, 2, (2, 3, n_writers)),
        "n_valid": np.full((2, n_writers), TOKENS),
    }
    return {"erasure_shares": shares, "net_dla": {"line": draw.uniform(1, 2, (2, 6, n_writers))}}


def tables_of(lean: RandomLean, size: int) -> Callable[[], dict[str, Columns]]:
    """A call that merges the states of a whole scan, ``size`` writers in a block, and makes its tables."""
    states = [
        (block, [invented_states(lean, block, seed) for seed in range(N_SHARDS)]) for block in blocks_of(lean, size)
    ]
    paths = [
        (
            Block(block.model, PathsWork(block.work.writers, True)),
            [invented_paths(lean, block, s) for s in range(N_SHARDS)],
        )
        for block, _ in states
    ]

    def make() -> dict[str, Columns]:
        tables: dict[str, Columns] = {}
        for stage, measured in (("scan", states), ("paths", paths)):
            merged = (
                (block, merge_states(stage, block, lambda name: (each[name] for each in shards)))  # noqa: B023 used at once
                for block, shards in measured
            )
            tables |= stage_tables(stage, merged, Setting(), tables)
        return tables

    return make


def calls_within(make: Callable[[], object]) -> int:
    """How many of the project's functions are called."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_globals.get("__name__", "").startswith("erasure_sweep.")

    sys.setprofile(count)
    try:
        make()
    finally:
        sys.setprofile(None)
    return calls


def test_no_python_call_for_each_pair(lean: RandomLean) -> None:
    make = tables_of(lean, 100)
    make()  # what is cached or imported at first use
    n_pairs = len(PairRows(lean.config.layout, WriterBlock(0, len(lean.config.layout.writers))))
    assert calls_within(make) < n_pairs


def test_memory_goes_with_the_tables(lean: RandomLean) -> None:
    make = tables_of(lean, 100)
    tracemalloc.start()
    try:
        tables = make()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {len(columns.get("writer", ())) for columns in tables.values()} >= {len(lean.config.layout.writers)}
    n_bytes = sum(values.nbytes for columns in tables.values() for values in columns.values())
    assert kept < 1.5 * n_bytes
    assert peak < 4 * n_bytes, f"{peak / n_bytes:.1f} times the tables"


def test_every_pair_stands_in_the_tables_once(lean: RandomLean) -> None:
    """In the order of the stream; a named group behind the heads of its writer."""
    tables = tables_of(lean, 100)()
    layout = lean.config.layout
    rows = PairRows(layout, WriterBlock(0, len(layout.writers)), (GROUP,))
    pairs = tables["v_composition"]
    assert list(pairs["writer"]) == list(rows.writers)
    assert list(pairs["eraser"]) == list(rows.erasers)
    first = list(rows.erasers[rows.of(rows.labels.index("L0H0"))])
    assert first[0] == "L1H0" and first[N_HEADS] == "attn1" and first[-2:] == ["later", "L3H1+L5H2"]
    assert list(tables["dla_correlation"]["eraser"]) == [label for label in rows.erasers for _ in range(2)]
    own = tables["component_projection"]["writer"] == tables["component_projection"]["component"]
    assert not own.any() and len(own) == len(layout.writers) * (len(layout.components) - 1)
