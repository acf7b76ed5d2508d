"""The plan: blocks cover everything once, and ids change with whatever changes results and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from erasure_sweep.sweep.config import build_config
from erasure_sweep.sweep.plan import (
    DONORS,
    STATE_BYTES,
    StagePlan,
    draw_donors,
    expected_stages,
    given_places,
    paired_blocks,
    plan_adversarial,
    plan_covariance,
    plan_group,
    plan_paths,
    plan_placebo,
    plan_scan,
    plan_trust,
    scan_options,
    sketch_bytes,
    sweep_id,
    writer_blocks,
)
from erasure_sweep.workers.measures.statistics.sketch_bins import N_BINS
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    Group,
    GroupWork,
    NullErasers,
    Nulls,
    Numerics,
    PathsWork,
    Place,
    PlaceboWork,
    Resolved,
    StagedArray,
    Target,
    TrustWork,
    WriterBlock,
)
from tests.support.models.random_models import random_config

CPU = Numerics("cpu", "AVX2", "2.9.0", "MKL", "highest", "00000000")
SHAPE = random_config(4, 8, 64).to_json()
MODEL = Resolved(
    name="m", spec="m", hash="aa", weights="/w", weights_bytes=10, architecture=SHAPE, n_params=5,
    sketches=(55,) * 38, tokens="/t", corpus_fingerprint="cc", corpus_description="d", n_prompts=30, seq_len=64,
    lengths=((64, 30),),
    verify_prompts=(30, 62), verify_fingerprint="vv",
)  # fmt: skip
TARGETS = (Target("L0H2", ("L2H2", "L2H3"), "rule"), Target("MLP0", ("L1H0",), "rule"))
PLACES = (Place("L0H2", "found", 31, 9), Place("L0H2", "found", 3, 60))
MEANS = StagedArray("/staging/means/mm-nn.npy", "nn")
NULLS = Nulls(
    StagedArray("/staging/means/mm-cc.npy", "cc"),
    (NullErasers("L0H2", "placebo", "1", ("L2H0", "L1H1")), NullErasers("L0H2", "siblings", "L0H0", ("L2H3",))),
)


def config(**changes: Any) -> Any:
    return build_config({"models": ["m"], "prompts": 30, "seq_len": 64, **changes})


def ids(model: Resolved = MODEL, numerics: Numerics = CPU, **changes: Any) -> set[str]:
    return {task.id for task in plan_scan(config(**changes), model, numerics).tasks}


@pytest.mark.parametrize("sketches", [55, 20_000])
def test_shards_cover_every_prompt_and_writer_once(sketches: int) -> None:
    model = MODEL._replace(sketches=(sketches,) * 38)
    plan = plan_scan(config(block_prompts=8), model, CPU)
    seen = [
        (prompt, writer)
        for task in plan.tasks
        for prompt in range(task.first_prompt, task.first_prompt + task.n_prompts)
        for writer in range(*task.work.writers)
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
    assert (few.sample, few.sample_below) == (1000, int((1.33 * 1000 + 20) / (30 * 63) * 2**64))
    assert scan_options(config(), MODEL._replace(n_prompts=4, lengths=((64, 4),))).sample_below == 2**64
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
    assert not ids(numerics=Numerics("cuda")) & ids()


@pytest.mark.parametrize("field", ["unit", "torch", "backend", "precision", "probe"])
def test_ids_change_with_whatever_decides_the_last_digits(field: str) -> None:
    assert not ids(numerics=CPU._replace(**{field: "another"})) & ids()


@pytest.mark.parametrize("changes", [{"workers": 7}, {"top": 9}, {"out": "x"}, {"name": "y"}, {"attempts": 9}])
def test_ids_do_not_change_with_resources_and_places(changes: dict[str, Any]) -> None:
    assert ids(**changes) == ids()
    assert sweep_id(config(**changes)) == sweep_id(config())


@pytest.mark.parametrize(
    "changes",
    [{"stage": "scan"}, {"stage": "verify"}, {"verify_prompts": 9}, {"donors": 5}, {"adversarial_prompts": ["a"]}],
)
def test_a_scan_is_the_same_whatever_is_verified(changes: dict[str, Any]) -> None:
    assert ids(**changes) == ids()
    assert ids(MODEL._replace(verify_prompts=(0, 0), verify_fingerprint="")) == ids()


def test_a_longer_sweep_keeps_the_shards_it_shares() -> None:
    assert {t.first_prompt for t in plan_scan(config(), MODEL, CPU).tasks} == {0, 8, 16, 24}
    assert sweep_id(config(prompts=20)) != sweep_id(config())


def paths(model: Resolved = MODEL, **changes: Any) -> StagePlan:
    return plan_paths(config(**changes), model, CPU, MEANS)


def test_paths_are_followed_on_the_first_of_the_scans_prompts() -> None:
    assert spans(paths()) == [(0, 8), (8, 16), (16, 24), (24, 30)]
    assert spans(paths(paths_prompts=20, paths_centred_prompts=5)) == [(0, 5), (5, 13), (13, 20)]
    works = [task.work for task in paths(paths_prompts=20, paths_centred_prompts=5).tasks]
    assert works == [PathsWork(WriterBlock(0, 38), of_all) for of_all in (True, False, False)]
    assert not any(task.work.every_family for task in paths(paths_centred_prompts=0).tasks)  # type: ignore[union-attr]
    assert paths().writer_blocks == (WriterBlock(0, 38),) and paths().n_prompts == 30


def test_ids_of_paths_follow_from_the_means_and_what_is_scanned() -> None:
    ids = {task.id for task in paths().tasks}
    assert ids == {task.id for task in paths(MODEL._replace(verify_fingerprint="ww"), verify_prompts=9).tasks}
    assert not ids & {task.id for task in paths(positions=5).tasks}
    other = plan_paths(config(), MODEL, CPU, MEANS._replace(fingerprint="ff"))
    assert not ids & {task.id for task in other.tasks}


def group(model: Resolved = MODEL, targets: tuple[Target, ...] = TARGETS, **changes: Any) -> StagePlan:
    return plan_group(config(**changes), model, CPU, MEANS, targets, NULLS)


def trust(model: Resolved = MODEL, **changes: Any) -> StagePlan:
    return plan_trust(config(**changes), model, CPU, MEANS)


def ids_of(plan: StagePlan) -> set[str]:
    return {task.id for task in plan.tasks}


def spans(plan: StagePlan) -> list[tuple[int, int]]:
    return [(task.first_prompt, task.first_prompt + task.n_prompts) for task in plan.tasks]


def test_verify_reads_the_prompts_behind_the_scan() -> None:
    assert spans(group()) == [(30, 38), (38, 46), (46, 54), (54, 62)]
    assert spans(trust()) == [(30, 38), (38, 46), (46, 54), (54, 62), (30, 38)]
    assert {task.work for task in group().tasks} == {GroupWork(TARGETS, 8, 20, NULLS.erasers)}
    assert [task.work for task in trust().tasks] == [
        TrustWork(WriterBlock(0, 38), 128, last) for last in (*4 * [False], True)
    ]
    assert len(ids_of(group()) | ids_of(trust())) == 9
    assert group().n_prompts == trust().n_prompts == 32


def test_trust_has_blocks_of_writers_however_large_sketches_are() -> None:
    plan = trust(MODEL._replace(sketches=(20_000,) * 150))
    assert plan.writer_blocks == (WriterBlock(0, 64), WriterBlock(64, 128), WriterBlock(128, 150))
    assert len(plan.tasks) == 5 * 3


def test_rotated_outputs_are_tried_on_as_many_prompts_as_asked_for() -> None:
    for rotated, expected in ((0, []), (3, [(30, 33)]), (12, [(30, 38), (38, 42)]), (99, [(30, 38), (38, 42)])):
        shards = trust(trust_prompts=12, rotated_prompts=rotated).tasks
        found = [shard for shard in shards if isinstance(shard.work, TrustWork) and shard.work.rotated]
        assert [(shard.first_prompt, shard.first_prompt + shard.n_prompts) for shard in found] == expected


@pytest.mark.parametrize(
    ("start", "end", "size", "expected"),
    [
        (5, 13, 4, [range(5, 9), range(9, 13)]),
        (5, 14, 4, [range(5, 9), range(9, 14)]),
        (5, 15, 4, [range(5, 9), range(9, 13), range(13, 15)]),
        (0, 3, 2, [range(3)]),
        (0, 2, 8, [range(2)]),
        (0, 4, 1, [range(2), range(2, 4)]),
    ],
)
def test_no_prompt_is_alone_in_a_block(start: int, end: int, size: int, expected: list[range]) -> None:
    assert paired_blocks(start, end, size) == expected


def test_ids_of_verify_follow_from_targets_and_not_from_where_they_came() -> None:
    usual = ids_of(group())
    for targets in (TARGETS[:1], TARGETS[::-1], (TARGETS[0]._replace(chosen="named"), TARGETS[1])):
        assert not usual & ids_of(group(targets=targets))
    for changes in ({"seed": 1}, {"places": 3}, {"positions": 5}, {"dtype": "float64"}, {"batch": 1}):
        assert not usual & ids_of(group(**changes)), changes
    for changes in (
        {"top": 9},
        {"stage": "verify"},
        {"writers": ["L0H2"], "erasers": "L2H2"},
        {"tau": 0.2},
        {"donors": 7},
    ):
        assert usual == ids_of(group(**changes)), changes
    assert not usual & ids_of(group(MODEL._replace(verify_fingerprint="ww")))


def test_ids_behind_the_scan_follow_from_the_content_of_its_means_and_not_from_their_path() -> None:
    tasks = (*group().tasks, *trust().tasks)
    assert {task.means for task in tasks} == {MEANS.path} and all(MEANS.path in task.files for task in tasks)
    moved, other = (
        (*plan_group(config(), MODEL, CPU, means, TARGETS, NULLS).tasks, *plan_trust(config(), MODEL, CPU, means).tasks)
        for means in (MEANS._replace(path="/elsewhere.npy"), MEANS._replace(fingerprint="ff"))
    )
    assert [task.id for task in moved] == [task.id for task in tasks]
    assert not {task.id for task in other} & {task.id for task in tasks}
    assert {task.means for task in plan_scan(config(), MODEL, CPU).tasks} == {None}


def test_nulls_are_found_on_the_scans_first_prompts() -> None:
    covariance, placebo = (
        plan_covariance(config(), MODEL, CPU, TARGETS),
        plan_placebo(config(), MODEL, CPU, TARGETS, MEANS),
    )
    writers = ("L0H2", "MLP0")
    assert {task.work for task in covariance.tasks} == {CovarianceWork(writers)}
    assert {task.work for task in placebo.tasks} == {PlaceboWork(writers, 20)}
    assert spans(covariance) == spans(placebo) == [(0, 8), (8, 16)]
    assert {task.covariance for task in covariance.tasks} == {None} and {task.covariance for task in placebo.tasks} == {
        MEANS.path
    }
    more = plan_placebo(config(placebos=30), MODEL, CPU, TARGETS, MEANS)
    other = plan_placebo(config(), MODEL, CPU, TARGETS, MEANS._replace(fingerprint="ff"))
    assert not {task.id for plan in (more, other) for task in plan.tasks} & {task.id for task in placebo.tasks}


def test_ids_of_groups_follow_from_their_nulls() -> None:
    for nulls in (
        NULLS._replace(erasers=NULLS.erasers[:1]),
        NULLS._replace(covariance=MEANS._replace(fingerprint="ff")),
    ):
        assert not ids_of(group()) & ids_of(plan_group(config(), MODEL, CPU, MEANS, TARGETS, nulls))


def test_donors_are_drawn_from_all_prompts_by_the_seed() -> None:
    drawn = draw_donors(0, 62, 300)
    assert sorted(drawn) == list(range(62)) and list(drawn) != sorted(drawn)
    assert draw_donors(0, 62, 10) == drawn[:10] != draw_donors(1, 62, 10)
    assert all(type(donor) is int for donor in drawn)


def test_adversarial_shards_are_blocks_of_donors() -> None:
    model = MODEL._replace(verify_prompts=(30, 230), given=((0, 5), (0, 7, 8)))
    places = (*PLACES, *given_places(TARGETS, model.given))
    plan = plan_adversarial(config(donors=150), model, CPU, MEANS, places)
    works = [task.work for task in plan.tasks]
    assert all(
        isinstance(work, AdversarialWork) and work.places == places and work.given == model.given for work in works
    )
    assert [len(work.donors) for work in works] == [DONORS, DONORS, 150 - 2 * DONORS]
    assert sum((work.donors for work in works), ()) == draw_donors(0, 230, 150)
    assert [work.tokens for work in works] == [True, False, False]
    assert plan.n_prompts == 150 and len({task.id for task in plan.tasks}) == 3
    assert plan_adversarial(config(), model, CPU, MEANS, ()).tasks == ()


def test_given_prompts_are_tested_at_their_last_token_for_each_writer() -> None:
    twice = (*TARGETS, TARGETS[0]._replace(chosen="named"))
    assert given_places(twice, ((0, 5), (0, 7, 8))) == (
        Place("L0H2", "given", 0, 1), Place("L0H2", "given", 1, 2), Place("MLP0", "given", 0, 1), Place("MLP0", "given", 1, 2),
    )  # fmt: skip


def test_what_is_expected_has_as_many_shards_as_there_will_be() -> None:
    counts = [len(plan.tasks) for plan in expected_stages(config(), MODEL, CPU)]
    nulls = (plan_covariance(config(), MODEL, CPU, TARGETS), plan_placebo(config(), MODEL, CPU, TARGETS, MEANS))
    adversarial = plan_adversarial(config(), MODEL, CPU, MEANS, PLACES)
    real = (plan_scan(config(), MODEL, CPU), paths(), trust(), *nulls, group(), adversarial)
    assert counts == [len(plan.tasks) for plan in real] == [4, 4, 5, 2, 2, 4, 1]
    assert [plan.name for plan in expected_stages(config(stage="scan"), MODEL, CPU)] == ["scan", "paths"]
    given = config(writers=["L0H2"], places=0)
    assert [len(plan.tasks) for plan in expected_stages(given, MODEL, CPU)] == [4, 4, 5, 2, 2, 4, 0]
