"""The plan: blocks cover everything once, and ids change with whatever changes results and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.config import build_config
from sweep.plan import plan_scan, sweep_id, writers_per_block
from workers.records import Resolved

MODEL = Resolved(
    name="m", spec="m", hash="aa", weights="/w", weights_bytes=10, architecture={}, n_params=5, n_writers=38,
    sketches_per_writer=55, tokens="/t", corpus_fingerprint="cc", corpus_description="d", n_prompts=30, seq_len=64,
)  # fmt: skip


def config(**changes: Any) -> Any:
    return build_config({"models": ["m"], "prompts": 30, "seq_len": 64, **changes})


def ids(model: Resolved = MODEL, device: str = "cpu", **changes: Any) -> set[str]:
    return {task.id for task in plan_scan(config(**changes), model, device).tasks}


@pytest.mark.parametrize("sketches", [55, 20_000])
def test_shards_cover_every_prompt_and_writer_once(sketches: int) -> None:
    model = MODEL._replace(sketches_per_writer=sketches)
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
    assert writers_per_block(MODEL) == 38
    assert writers_per_block(MODEL._replace(sketches_per_writer=20_000)) == 2
    assert writers_per_block(MODEL._replace(sketches_per_writer=10**7)) == 1


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"positions": 8}, {"block_prompts": 5}, {"batch": 1}, {"dtype": "float64"}, {"cpus_per_worker": 2}],
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
    from sweep.plan import SKETCH_BYTES
    from workers.sketch import N_BINS

    assert SKETCH_BYTES == 4 * N_BINS
