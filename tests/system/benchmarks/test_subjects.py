"""Benchmarks that write pages or run a whole sweep, on next to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.large import measure_large
from tests.benchmarks.noop import noop_config, probe_noop
from tests.benchmarks.pages import measure_pages
from tests.benchmarks.settings import quick_settings
from tests.conftest import CHROMIUM


def test_shards_that_measure_nothing_go_all_the_way_through_a_sweep(tmp_path: Path) -> None:
    config = noop_config(tmp_path, 0)
    found = probe_noop({"n_shards": 3, "n_workers": 0, "folder": str(tmp_path)})
    assert len(found["ends_s"]) == len(found["rss_bytes"]) == 3
    assert Path(str(config.out), "noop", "index.html").exists()


@pytest.mark.nightly
def test_pages_are_sized_and_opened_beside_a_page_of_one_figure() -> None:
    rows = list(measure_pages(quick_settings(threads=1, rounds=1)))
    sizes = {row.measured.partition(" page")[0]: row.spread.median for row in rows if row.unit == "MB"}
    # plotly.js alone has 4.8 MB
    assert set(sizes) == {"the comparison", "the model"} and all(4.5 < size < 10 for size in sizes.values())
    opened = [row for row in rows if row.unit == "×"]
    assert len(opened) == (4 if CHROMIUM.exists() else 0)
    assert all(row.spread.low > 0 and row.cpu is None for row in opened)


@pytest.mark.nightly
def test_a_whole_run_stands_beside_bare_forward_passes() -> None:
    ratio, *others = measure_large(quick_settings(threads=1, rounds=1))
    assert ratio.spread.median == ratio.details["cpu_s"] / ratio.details["bare_cpu_s"] > 1
    figures = {row.measured: row.spread.median for row in others}
    assert 4.5 < figures["the model's page"] < 7 and figures["the largest of its processes"] > 100
