"""The plan: blocks cover everything once, and ids change with whatever changes results and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.config import build_config
from sweep.plan import N_BINS, STATE_BYTES, plan_scan, scan_options, sketch_bytes, sweep_id, writer_blocks
from workers.records import Group, Resolved, WriterBlock

MODEL = Resolved(
    name="m", spec="m", hash="aa", weights="/w", weights_bytes=10, architecture={}, n_params=5,
    sketches=(55,) * 38, tokens="/t", corpus_fingerprint="cc", corpus_description="d", n_prompts=30, seq_len=64,
)  # fmt: skip


def config(**changes: Any) -> Any:
    return build_config({"models": ["m"], "prompts": 30, "seq_len": 64, **changes})


def ids(model: Resolved = MODEL, device: str = "cpu", **changes: Any) -> set[str]:
    return {task.id for task in plan_scan(config(**changes), model, device).tasks}


@pytest.mark.parametrize("sketches", [55, 20_000])
def test_shards_cover_every_prompt_and_writer_once(sketches: int) -> None:
    model = MODEL._replace(sketches=(sketches,) * 38)
    plan = plan_scan(config(block_prompts=8), model, "cpu")
    seen = [
        (prompt, writer)
        for task in plan.tasks
        for prompt in range(task.first_prompt, task.first_prompt + task.n_prompts)
        for writer in range(*task.writers)
    ]
    assert len(seen) == len(set(seen)) == 30 * 38
    assert list(plan.writer_blocks) == sorted(plan.writer_blocks)


def test_blocks_of_writers_keep_to_the_budget() -> None:
    assert writer_blocks((55,) * 38, 6146) == [WriterBlock(0, 38)]
    sizes = (20_000, 60_000, 20_000, 10**7, 5, 5)
    found = writer_blocks(sizes, 6146)
    assert found == [WriterBlock(0, 2), WriterBlock(2, 3), WriterBlock(3, 4), WriterBlock(4, 6)]
    for start, stop in found:
        assert stop - start == 1 or sum(sizes[start:stop]) * 6146 <= STATE_BYTES


def test_counts_are_as_small_as_a_shards_tokens_allow() -> None:
    assert sketch_bytes(config(seq_len=64)) == 2 * N_BINS
    assert sketch_bytes(config(seq_len=8192, positions="all")) == 4 * N_BINS
    assert sketch_bytes(config(seq_len=8192, positions=64)) == 2 * N_BINS


def test_the_sample_for_rank_correlations_is_bounded() -> None:
    few = scan_options(config(), MODEL)
    assert (few.sample, few.sample_below) == (1000, int((1.33 * 1000 + 20) / (30 * 64) * 2**64))
    assert scan_options(config(), MODEL._replace(n_prompts=4)).sample_below == 2**64
    assert scan_options(config(), MODEL._replace(sketches=(3000,) * 1000)).sample == 20


def test_named_groups_reach_the_workers() -> None:
    assert scan_options(config(writers=["L0H2"], erasers="L2H2 + L2H3"), MODEL).groups == (
        Group("L0H2", ("L2H2", "L2H3")),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"positions": 8},
        {"block_prompts": 5},
        {"batch": 1},
        {"dtype": "float64"},
        {"cpus_per_worker": 2},
        {"ln": "recompute"},
    ],
)
def test_ids_change_with_what_changes_results(changes: dict[str, Any]) -> None:
    assert not ids(**changes) & ids()


def test_ids_change_with_model_corpus_and_device() -> None:
    assert not ids(MODEL._replace(hash="bb")) & ids()
    assert not ids(MODEL._replace(corpus_fingerprint="dd")) & ids()
    assert not ids(device="cuda") & ids()


@pytest.mark.parametrize("changes", [{"workers": 7}, {"top": 9}, {"out": "x"}, {"name": "y"}, {"attempts": 9}])
def test_ids_do_not_change_with_resources_and_places(changes: dict[str, Any]) -> None:
    assert ids(**changes) == ids()
    assert sweep_id(config(**changes)) == sweep_id(config())


def test_a_longer_sweep_keeps_the_shards_it_shares() -> None:
    assert {t.first_prompt for t in plan_scan(config(), MODEL, "cpu").tasks} == {0, 8, 16, 24}
    assert sweep_id(config(prompts=20)) != sweep_id(config())


def test_the_state_budget_counts_the_bins_there_are() -> None:
    from workers import sketch

    assert sketch.N_BINS == N_BINS
