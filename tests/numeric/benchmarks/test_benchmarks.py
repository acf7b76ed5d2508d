"""The benchmarks on tiny shapes: what they compare computes the same thing, and their arithmetic and report hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from erasure_sweep.sweep.config import build_config
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.scan.products import PromptProducts
from erasure_sweep.workers.measures.statistics.ratios import Ratios, merge_ratios
from erasure_sweep.workers.measures.verify.patched_residual import LOSS, WrittenRow
from erasure_sweep.workers.models.forward import LeanModel
from tests.benchmarks import __main__ as command
from tests.benchmarks import probe, timing
from tests.benchmarks.audit import measure_audit
from tests.benchmarks.literal import (
    Clean,
    bridge_with,
    literal_attributions,
    literal_clean,
    literal_patched,
    literal_ratios,
    measure_literal,
    patched_pairs,
    spread_over,
)
from tests.benchmarks.memory import memory_request, scan_task, shard_tasks, stage
from tests.benchmarks.overhead import Found, overhead_rows, prepare
from tests.benchmarks.paths import measure_paths
from tests.benchmarks.positions import compare, measure_positions
from tests.benchmarks.probe import (
    PairedReporter,
    peak_bytes,
    probe_loop,
    probe_memory,
    read_task,
    reset_peak,
    rss_bytes,
)
from tests.benchmarks.report import machine_info, tables, write_json
from tests.benchmarks.scan import ALL, BARE, Scan, compute_compositions, measure_scans
from tests.benchmarks.settings import GELU_4L, Settings, Workload, quick_settings, random_prompts, random_weights
from tests.benchmarks.shards import shard_rows
from tests.benchmarks.timing import Row, Timing, interleave, ratio_row, spread
from tests.benchmarks.verify import default_shares, literal_patched_pass, measure_verify, patched_pass, verified_targets
from tests.support.models.random_models import random_config


@pytest.fixture
def settings() -> Iterator[Settings]:
    threads = torch.get_num_threads()
    quick = quick_settings(threads=1, rounds=1)
    shape = random_config(2, 2, 16, n_ctx=16, d_vocab=23)
    sizes = {"seq_len": 16, "literal_rounds": 1, "verify_rounds": 1, "memory_prompts": (2, 4), "n_positions": 4}
    sizes |= {"enough_models": ("toy-gelu-2l",), "enough_prompts": 2, "enough_seq_len": 16, "enough_positions": (4, 15)}
    yield replace(quick, shapes={GELU_4L: shape}, memory_shape=GELU_4L, verify_shape=GELU_4L, **sizes)
    torch.set_num_threads(threads)


class FakeClock:
    """Moves only when a case takes time; processor time runs at half its speed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "process_time", lambda: self.now / 2)

    def taking(self, seconds: list[float]) -> object:
        left = iter(seconds)

        def case() -> None:
            self.now += next(left)

        return case


def test_cases_run_in_turns_after_an_untimed_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    found = interleave({"a": clock.taking([99.0, 3.0, 8.0]), "b": clock.taking([77.0, 1.0, 2.0])}, rounds=2)
    assert found == {"a": [Timing(3.0, 1.5), Timing(8.0, 4.0)], "b": [Timing(1.0, 0.5), Timing(2.0, 1.0)]}


def test_a_ratio_is_taken_within_each_round() -> None:
    slow = [Timing(2.0, 1.0), Timing(30.0, 2.0), Timing(3.0, 3.0)]
    fast = [Timing(1.0, 1.0), Timing(10.0, 1.0), Timing(0.5, 1.0)]
    row = ratio_row("subject", "shape", ("slow", slow), ("fast", fast), target=1.5)
    assert row.spread == (3.0, 2.0, 6.0, 3)
    assert row.cpu == 2.0
    assert row.details["median_s"] == {"slow": 3.0, "fast": 1.0}
    assert row.details["median_cpu_s"] == {"slow": 2.0, "fast": 1.0}


class BothWays:
    """One prompt of one model, measured literally and as the scan does."""

    def __init__(self, settings: Settings) -> None:
        config = settings.shapes[GELU_4L]
        weights = random_weights(config)
        self.layout = config.layout
        self.prompt = random_prompts(config, 1, settings.seq_len)
        self.bridge = bridge_with(config, weights)
        self.clean: Clean = literal_clean(self.bridge, self.layout, self.prompt)
        self.scan = Scan(LeanModel(config, weights), settings.seq_len)
        self.scan.reader.first = 0  # hooks take a writer out whole
        trace = LeanModel(config, weights).trace(self.prompt)
        self.products: PromptProducts = self.scan.reader.read(trace, 0, 0)


def test_the_literal_method_and_the_scan_measure_the_same(settings: Settings) -> None:
    both = BothWays(settings)
    assert set(both.clean.vectors) == set(both.layout.rows)
    both.scan.update(both.prompt)
    state = both.scan.accumulators["projection"].export()
    means = state["ratio_sum"] / state["n"][:, None]
    for index, writer in enumerate(both.layout.writers):
        literal = {label: float(ratios.mean()) for label, ratios in literal_ratios(both.clean, writer).items()}
        np.testing.assert_allclose(means[index], [literal[row] for row in both.layout.rows], rtol=1e-3, atol=1e-3)
    attributions = literal_attributions(both.clean)
    literal = torch.cat([attributions[term] for term in both.layout.terms])
    torch.testing.assert_close(both.products.dla, literal, rtol=1e-3, atol=1e-4)


def test_a_patched_forward_and_the_scan_measure_the_same(settings: Settings) -> None:
    both = BothWays(settings)
    parts, rows = both.products.parts, both.scan.reader.composer.rows
    before = both.bridge(both.prompt, return_type="logits")
    for writer, layer in patched_pairs(both.layout):
        index = both.layout.writers.index(writer)
        clean = literal_ratios(both.clean, writer)
        for head, (patched, dla) in literal_patched(both.bridge, both.clean, both.prompt, writer, layer).items():
            row = rows.head(index, head)
            part = parts.along_writer[row] * both.products.inverse_norm_sq[index]
            torch.testing.assert_close(clean[head][0] - patched[0], part, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(dla[0], parts.dla[row], rtol=1e-3, atol=1e-4)
        to_the_end = literal_patched(both.bridge, both.clean, both.prompt, writer, layer, stop_early=False)
        torch.testing.assert_close(to_the_end[head], (patched, dla))
    torch.testing.assert_close(both.bridge(both.prompt, return_type="logits"), before)


def test_patched_forwards_are_timed_all_over_the_layers() -> None:
    pairs = patched_pairs(Layout(4, 8))
    assert len(pairs) == len(set(pairs)) == 62
    rounds = spread_over(pairs, 4, 2)
    assert [len(pairs) for pairs in rounds] == [4, 4]
    assert len({pair for pairs in rounds for pair in pairs}) == 8
    mean = np.mean([layer for _, layer in pairs])
    assert np.mean([layer for pairs in rounds for _, layer in pairs]) == pytest.approx(mean, abs=0.2)


def test_scans_are_set_beside_the_bare_forward(settings: Settings) -> None:
    rows = list(measure_scans(settings))
    assert [row.measured for row in rows] == [
        ALL,
        "whole scan, 4 positions",
        "composition matrices, once for each model",
        f"{ALL}: a prompt's share of exporting a shard of 8",
    ]
    assert {row.beside for row in rows} == {BARE}
    assert [row.target for row in rows] == [2.0, None, None, None]
    assert all(row.spread.low > 0 for row in rows)


def test_following_every_writer_is_set_beside_the_bare_forward(settings: Settings) -> None:
    rows = list(measure_paths(settings))
    assert [row.measured for row in rows] == [
        f"{what}, {measured}{behind}"
        for measured in ("all positions", "4 positions")
        for what, behind in (
            ("every writer", ", its trace included"),
            ("the same with what varies and position 0", ""),
            ("the trace of these", ""),
        )
    ]
    assert [row.target for row in rows] == [2.0, None, None] * 2 and {row.beside for row in rows} == {BARE}


def test_an_audit_is_set_beside_the_bare_forward(settings: Settings) -> None:
    rows = list(measure_audit(settings))
    assert [row.measured.partition(",")[0] for row in rows] == ["one prompt", "means over 1024 tokens"] * len(
        settings.shapes
    )
    assert {row.beside for row in rows} == {f"{BARE} of {min(32, settings.seq_len)} tokens"}


def test_composition_matrices_are_those_that_a_scan_needs(settings: Settings) -> None:
    config = settings.shapes[GELU_4L]
    model, scanned = (LeanModel(config, random_weights(config)) for _ in range(2))
    Scan(scanned, settings.seq_len).update(random_prompts(config, 1, settings.seq_len))
    compute_compositions(model)
    assert list(model.compositions) == list(scanned.compositions) == [(0, 1)]


def test_the_literal_method_is_extrapolated_to_all_writers_and_pairs(settings: Settings) -> None:
    row, patched, to_the_end = measure_literal(settings)
    assert row.details["writers"] == len(settings.shapes[GELU_4L].layout.writers)
    assert settings.literal_writers <= row.details["writers_timed"] < row.details["writers"]
    assert row.details["pairs"] == 7
    assert row.details["pairs_timed"] == settings.literal_pairs
    assert row.target == 25.0
    assert row.at_least
    assert row.spread.median > patched.spread.median > 0
    assert to_the_end.spread.median > 0


def test_three_writers_are_verified_in_a_model_of_any_size() -> None:
    named = {t.writer: t.label for t in verified_targets(Layout(4, 8))}
    six = "L2H2+L2H3+L2H4+L2H5+L2H6+L2H7"
    assert named == {"L0H2": six, "L0H3": "L1H0+L1H1+L2H2", "MLP0": "L3H0"}
    assert {t.writer: t.label for t in verified_targets(Layout(2, 2, True))} == {
        "L0H0": "L1H0+L1H1",
        "L0H1": "L1H0+L1H1",
    }


def test_verify_is_set_beside_the_bare_forward(settings: Settings) -> None:
    *rows, literal = measure_verify(settings)
    assert [row.measured for row in rows] == [
        "placebos and siblings of 3 writers, all positions: for each prompt",
        "group of 3 writers, all positions: for each prompt",
        "all of verify at the defaults, for each verified prompt, all positions",
        "placebos and siblings of 3 writers, 4 positions: for each prompt",
        "group of 3 writers, 4 positions: for each prompt",
        "all of verify at the defaults, for each verified prompt, 4 positions",
        "trust: every writer replaced by its mean, with who mediates, 128 tokens of each prompt",
        "trust: by its rotated output, 128 tokens of each prompt",
        "adversarial: for each shard, 24 places and 4 given prompts",
        "adversarial: for each donor",
        "adversarial: tokens of the places, once",
    ]
    assert {row.beside for row in rows} == {BARE}
    assert [row.target for row in rows] == [None, None, 12.0, *[None] * 8]
    *_, trust, rotated, shard, donor, tokens = rows
    for placebo, group, together in (rows[:3], rows[3:6]):
        shares = together.details
        parts = (placebo, shares["nulls"]), (group, 1.0), (trust, shares["trust"]), (rotated, shares["rotated"])
        parts = *parts, (shard, shares["shards"])
        parts = *parts, (donor, shares["donors"]), (tokens, shares["tokens"])
        assert together.cpu == pytest.approx(sum(row.cpu * share for row, share in parts))
    assert literal.spread.low > 0


def test_shares_of_a_verified_prompt_follow_from_the_config() -> None:
    values = {"models": ["m"], "prompts": 100, "verify_prompts": 50, "trust_prompts": 20, "donors": 200}
    assert default_shares(build_config(values)) == (20 / 50, 8 / 50, 16 / 50, 3 / 50, 150 / 50, 1 / 50)
    more = {**values, "donors": 40, "trust_prompts": 60, "rotated_prompts": 70}
    assert default_shares(build_config(more)) == (1.0, 1.0, 16 / 50, 1 / 50, 40 / 50, 1 / 50)


def test_hooks_and_verify_record_the_same_patched_passes() -> None:
    config = random_config(3, 4, 32, n_ctx=16)
    weights, prompt = random_weights(config), random_prompts(config, 1, 16)
    bridge, model = bridge_with(config, weights), LeanModel(config, weights)
    vectors = literal_clean(bridge, config.layout, prompt).vectors
    for target in verified_targets(config.layout):
        literal = literal_patched_pass(bridge, config.layout, prompt, target)
        ours = Ratios(WrittenRow, merge_ratios([patched_pass(model, prompt, target)]))
        norm_sq = vectors[target.writer].square().sum(-1)
        assert set(ours.rows) == set(literal)
        for row, ratios in literal.items():
            pooled = float(ratios.mean() if row.label == LOSS else (ratios * norm_sq).sum() / norm_sq.sum())
            assert ours.beta(row) == pytest.approx(pooled, rel=1e-3, abs=1e-4)
        group, layer, clean = (literal[WrittenRow(0, run, "resid_post2")] for run in ("group", "layer", "clean"))
        assert not torch.allclose(group, clean, atol=1e-3)
        assert torch.allclose(group, layer, atol=1e-3) == (len(target.erasers) == config.n_heads)


def test_memory_is_measured_above_the_loaded_model(settings: Settings, tmp_path: Path) -> None:
    model = stage(settings.shapes[GELU_4L], 16, 4, tmp_path)
    request = memory_request(scan_task(model, 2), threads=1)
    assert request["task"]["n_prompts"] == request["task"]["batch"] == 2
    for asked in (request, json.loads(json.dumps(request))):
        found = probe_memory(asked)
        assert found["loaded_bytes"] > 2**20
        assert 0 <= found["above_bytes"] < found["loaded_bytes"]
        assert found["state_bytes"] > 0


def test_memory_is_measured_of_the_shards_of_every_stage(settings: Settings, tmp_path: Path) -> None:
    model = stage(settings.shapes[GELU_4L], 16, 8, tmp_path)
    assert list(shard_tasks(model, whole=False)) == ["scan", "verify, groups of 1"]
    tasks = shard_tasks(model, whole=True)
    assert [(name, task.stage) for name, task in tasks.items()] == [
        ("scan", "scan"),
        ("verify, groups of 3", "group"),
        ("verify, trust", "trust"),
    ]
    for task in tasks.values():
        assert (task.n_prompts, task.positions) == (8, None)
        request = json.loads(json.dumps(memory_request(task, threads=1)))
        assert read_task(request["task"]) == task
        assert probe_memory(request)["state_bytes"] > 0


def test_some_positions_are_compared_with_all(settings: Settings) -> None:
    rows = list(measure_positions(settings))
    assert [row.column for row in rows] == ["4"] * (len(rows) // 2) + ["15"] * (len(rows) // 2)
    found = {(row.column, row.measured): row.spread.median for row in rows}
    for measured in dict.fromkeys(row.measured for row in rows):
        if measured.startswith("shift"):
            assert found["4", measured] > found["15", measured] == 0.0
    for perfect in ("Spearman's correlation of the ranking", "writers with the same list of erasers, share"):
        assert found["4", perfect] <= found["15", perfect] == 1.0


def test_shifts_are_of_what_a_sweep_reports() -> None:
    def tables(erased: list[float], erasers: list[str | None], medians: list[float]) -> dict[str, pd.DataFrame]:
        writers = pd.DataFrame({"writer": ["a", "b", "c", "d"], "erased": erased, "erasers": erasers})
        return {
            "writers": writers,
            "v_composition": pd.DataFrame({"v_composed_median": medians}),
            "residual_projection": pd.DataFrame({"median": medians}),
        }

    nan = float("nan")
    whole = tables([0.4, 0.2, -0.1, nan], ["L1H0+L1H1", "", "", None], [0.0, -0.5, nan])
    some = tables([0.3, 0.35, -0.1, nan], ["L1H0", "", "L1H1", None], [0.1, -0.9, nan])
    found = compare(whole, some)
    assert found["shift of median of V-composed PR, largest"] == pytest.approx(0.4)
    assert found["shift of median of V-composed PR, 95th percentile"] == pytest.approx(0.1 + 0.95 * 0.3)
    assert found["shift of erased, largest of the top 10"] == pytest.approx(0.15)
    assert found["… as a share of its own size"] == pytest.approx(0.75)
    assert found["Spearman's correlation of the ranking"] == pytest.approx(0.5)
    assert found["writers with the same list of erasers, share"] == pytest.approx(1 / 3)
    assert found["erasers of both lists, share of those in either"] == pytest.approx(1 / 3)


def test_a_peak_is_seen_after_it_is_over() -> None:
    reset_peak()
    before = rss_bytes()
    block = np.ones(64 * 2**20, dtype=np.uint8)
    del block
    assert peak_bytes() - before > 48 * 2**20


def test_the_loop_measures_every_shard_of_the_plan(settings: Settings, tmp_path: Path) -> None:
    work = Workload("few", 1, 1, 8, seq_len=8, n_prompts=5, block_prompts=2)
    values, model = prepare(settings, work, tmp_path)
    found = probe_loop({"config": values, "model": json.loads(json.dumps(model))})
    ends = found["ends_s"]
    assert len(ends) == 3
    assert found["own_cpu_s"][0] <= found["own_cpu_s"][1]
    assert ends == sorted(ends)


def test_a_shard_in_the_run_is_paired_with_its_plain_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    monkeypatch.setattr(probe, "descendants_cpu_s", lambda: 0.0)
    again: list[int] = []

    def measure_again(index: int) -> None:
        again.append(index)
        clock.now += [9.0, 0.5, 0.25][index]

    reporter = PairedReporter(measure_again)
    reporter.start_stage("model", "scan", 0, 3, 1.0)
    for in_the_run in (20.0, 1.0, 2.0):
        clock.now += in_the_run
        reporter.advance("model")
    assert again == [0, 1, 2]
    assert reporter.pairs_s == [(1.0, 0.5), (2.0, 0.25)]


def test_overhead_is_what_a_run_takes_beyond_the_loop() -> None:
    work = Workload("few", 1, 1, 8, seq_len=8, n_prompts=3, block_prompts=1)
    run = {"ends_s": [10.0, 10.5, 11.0], "total_s": 40.0, "rss_bytes": [2**20, 2**21, 3 * 2**20]}
    run |= {"staging_s": 4.0, "first_shard_s": 5.0, "finishing_s": 6.0}
    run |= {"own_cpu_s": [1.0, 1.1], "descendants_cpu_s": [7.0, 7.7]}
    loop = {"ends_s": [1.0, 1.2, 1.5], "total_s": 8.0, "own_cpu_s": [2.0, 2.4], "descendants_cpu_s": [0.0, 0.0]}
    found = Found([run], [loop], [(0.5, 0.25), (0.75, 0.25), (4.0, 1.0)])
    rows = {row.measured: row for row in overhead_rows(work, found)}
    assert rows["run with one worker, from start to end"].spread.median == 5.0
    assert rows["a shard in the run, steady state"].spread == (3.0, 2.0, 4.0, 3)
    assert rows["a shard in the run, steady state"].cpu == pytest.approx(2.0)
    assert rows["driver, Ray and store, for each shard"].spread == (500.0, 250.0, 3000.0, 3)
    assert rows["the same in processor time, all processes together"].spread.median == pytest.approx(200.0)
    assert rows["… and how much it grows to the last"].spread.median == 2.0


def test_shards_that_measure_nothing_show_what_a_shard_costs_and_whether_that_grows() -> None:
    """21 shards: a millisecond each in the first tenth, two from then on; a MiB more of memory for each."""
    ends = [0.0, 0.001, *(0.001 + 0.002 * i for i in range(1, 20))]
    found = {"ends_s": ends, "rss_bytes": [i * 2**20 for i in range(21)], "own_cpu_s": [1.0, 1.01]}
    rows = {row.measured: row.spread.median for row in shard_rows({**found, "descendants_cpu_s": [0.0, 0.0]})}
    assert rows == {
        "driver, Ray and store, for each shard": pytest.approx(1.95),
        "… in the first tenth": pytest.approx(1.0),
        "… in the last tenth": pytest.approx(2.0),
        "the driver's processor time, for each shard": pytest.approx(0.5),
        "the driver's memory after a tenth": 1.0,
        "… and how much it grows from there to the end": 19.0,
    }


def test_each_table_is_printed_as_soon_as_it_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure_first(settings: Settings) -> Iterator[Row]:
        yield Row("first", "a shape", "a figure", "ms", spread([1.25]))

    def fail(settings: Settings) -> Iterator[Row]:
        yield Row("second", "a shape", "half of it", "ms", spread([2.5]))
        raise RuntimeError("no shards")

    monkeypatch.setattr(command, "SUBJECTS", {"first": measure_first, "second": fail})
    path = tmp_path / "bench.json"
    ended = CliRunner().invoke(command.main, ["--quick", "--json", str(path)])
    assert str(ended.exception) == "no shards"
    assert "first: a shape" in ended.output and "1.25 ms" in ended.output
    assert ended.output.index("1.25 ms") < ended.output.index("measuring second")
    assert [row["measured"] for row in json.loads(path.read_text())["rows"]] == ["a figure", "half of it"]


def test_the_report_can_be_read_and_kept(settings: Settings, tmp_path: Path) -> None:
    rows = [
        Row("scan", "gelu-4l", "projection scan", "×", spread([0.8, 0.9, 1.2]), "bare forward", cpu=0.85, target=1.0),
        Row("memory", "gelu-4l", "peak, 8 prompts", "MiB", spread([123.4]), details={"above_bytes": 5}),
        Row("literal method", "gelu-4l", "literal", "×", spread([30.0]), target=25.0, at_least=True),
        *(Row("positions", "toy", "shift", "", spread([x]), column=n) for n, x in (("16", 0.25), ("32", 0.125))),
    ]
    console = Console(file=StringIO(), width=100)
    console.print(*tables(rows))
    text = console.file.getvalue()
    for shown in ("÷ bare forward", "0.90 ×", "0.80 – 1.20", "0.85 ×", "≤ 1", "123 MiB", "≥ 25", "0.1250", "32"):
        assert shown in text
    path = tmp_path / "build" / "bench.json"
    write_json(path, settings, machine_info(threads=1), rows)
    content = json.loads(path.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["machine"]["threads"] == 1
    assert content["settings"]["shapes"][GELU_4L]["d_model"] == 16
    assert content["rows"][0]["spread"] == {"median": 0.9, "low": 0.8, "high": 1.2, "n": 3}
