"""The benchmarks on tiny shapes: what they compare computes the same thing, and their arithmetic and report hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.benchmarks import probe, timing
from tests.benchmarks.literal import bridge_with, literal_ratios, literal_vectors, measure_literal
from tests.benchmarks.memory import memory_requests
from tests.benchmarks.overhead import Found, overhead_rows, prepare
from tests.benchmarks.probe import PairedReporter, peak_bytes, probe_loop, probe_memory, reset_peak, rss_bytes
from tests.benchmarks.report import machine_info, tables, write_json
from tests.benchmarks.scan import BARE, Scan, measure_scans
from tests.benchmarks.settings import GELU_4L, Settings, Workload, quick_settings, random_prompts, random_weights
from tests.benchmarks.timing import Row, Timing, interleave, ratio_row, spread
from tests.random_models import random_config
from workers.measures.projection import Projection
from workers.trace import LeanModel


@pytest.fixture
def settings() -> Iterator[Settings]:
    threads = torch.get_num_threads()
    quick = quick_settings(threads=1, rounds=1)
    shape = random_config(2, 2, 16, n_ctx=16, d_vocab=23)
    sizes = {"seq_len": 16, "literal_rounds": 1, "memory_prompts": (2, 4), "n_positions": 4}
    yield replace(quick, shapes={GELU_4L: shape}, memory_shape=GELU_4L, **sizes)
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


def test_the_literal_method_and_the_scan_measure_the_same(settings: Settings) -> None:
    config = settings.shapes[GELU_4L]
    weights = random_weights(config)
    prompt = random_prompts(config, 1, settings.seq_len)
    vectors = literal_vectors(bridge_with(config, weights), config.layout, prompt)
    assert set(vectors) == set(config.layout.rows)
    scan = Scan(LeanModel(config, weights), (Projection(),))
    scan.update(prompt)
    state = scan.accumulators["projection"].export()
    means = state["ratio_sum"] / state["n"][:, None]
    for index, writer in enumerate(config.layout.writers):
        literal = {label: float(ratios.mean()) for label, ratios in literal_ratios(vectors, writer).items()}
        np.testing.assert_allclose(means[index], [literal[row] for row in config.layout.rows], rtol=1e-3, atol=1e-3)


def test_scans_are_set_beside_the_bare_forward(settings: Settings) -> None:
    rows = list(measure_scans(settings))
    measured = ["projection scan, all positions", "projection scan, 4 positions"]
    assert [row.measured for row in rows[:2]] == measured
    assert rows[2].measured == f"{measured[0]}: a prompt's share of exporting a shard of 8"
    assert {row.beside for row in rows} == {BARE}
    assert [row.target for row in rows] == [1.0, None, None]
    assert all(row.spread.low > 0 for row in rows)


def test_the_literal_method_is_extrapolated_to_all_writers(settings: Settings) -> None:
    (row,) = measure_literal(settings)
    assert row.details["writers"] == len(settings.shapes[GELU_4L].layout.writers)
    assert settings.literal_writers <= row.details["writers_timed"] < row.details["writers"]
    assert row.spread.median > 0


def test_memory_is_measured_above_the_loaded_model(settings: Settings, tmp_path: Path) -> None:
    requests = memory_requests(settings, tmp_path)
    assert list(requests) == [2, 4]
    found = probe_memory(requests[2])
    assert found["loaded_bytes"] > 2**20
    assert 0 <= found["above_bytes"] < found["loaded_bytes"]
    assert found["state_bytes"] > 0


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
    reporter.start_model("model", 0, 3, 1.0)
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


def test_the_report_can_be_read_and_kept(settings: Settings, tmp_path: Path) -> None:
    rows = [
        Row("scan", "gelu-4l", "projection scan", "×", spread([0.8, 0.9, 1.2]), "bare forward", cpu=0.85, target=1.0),
        Row("memory", "gelu-4l", "peak, 8 prompts", "MiB", spread([123.4]), details={"above_bytes": 5}),
    ]
    console = Console(file=StringIO(), width=100)
    console.print(*tables(rows))
    text = console.file.getvalue()
    for shown in ("÷ bare forward", "0.90 ×", "0.80 – 1.20", "0.85 ×", "≤ 1", "123 MiB"):
        assert shown in text
    path = tmp_path / "build" / "bench.json"
    write_json(path, settings, machine_info(threads=1), rows)
    content = json.loads(path.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["machine"]["threads"] == 1
    assert content["settings"]["shapes"][GELU_4L]["d_model"] == 16
    assert content["rows"][0]["spread"] == {"median": 0.9, "low": 0.8, "high": 1.2, "n": 3}
