"""Large models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.bad_input import Bench
from tests.support.models.random_models import write_tl_directory

N_LAYERS, N_HEADS = 13, 16
MB = 1_000_000
MOST_MB = 1200
"""What the helper process may take, libraries and all; counts of all bins of all pairs would be 1,700 MB alone."""
MOST_DRAWN_OF_A_CARD = 100
"""Figures; a model of hundreds of writers has some for its most erased ones alone."""


def figures_of(page: Path) -> dict[str, dict[str, object]]:
    """Figures of a page by card and choice."""
    found = re.findall(r'id="([a-z-]+)-figures"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return {card: json.loads(figures) for card, figures in found}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose runs draw their pages."""
    with closing(Bench(tmp_path, pages=True)) as with_pages:
        yield with_pages


def memory_mb(bench: Bench, what: str) -> float:
    """Memory of the helper process, which merges, writes tables and draws pages: ``VmRSS`` now, ``VmHWM`` the most."""
    status = bench.background.submit(Path.read_text, Path("/proc/self/status")).result()
    return int(re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1000


def test_a_model_of_hundreds_of_writers(bench: Bench, out: Path) -> None:
    """A model of many layers and heads, and next to no prompts

    Tables hold every pair of a writer and a later head. Time and memory go with what was measured and with the tables, not with
    what could have been counted. Pages stay small: maps show layers and the most erased writers, whose figures alone they hold.
    """
    model = write_tl_directory(bench.root / "many", 0, N_LAYERS, N_HEADS, 64, d_head=4, d_mlp=32)
    ran = bench.run(out, model=model, prompts=2, seq_len=4, stage="scan")
    assert ran.code == 0, ran.stderr
    if Path("/proc/self/status").exists():
        assert memory_mb(bench, "VmHWM") < MOST_MB
    n_writers = 2 + N_LAYERS * (N_HEADS + 1)
    assert n_writers > 200, "more writers than a map has rows"
    # of each writer's later layers the heads and their sum, and all later heads where there are any
    later = [N_LAYERS, N_LAYERS, *(N_LAYERS - 1 - layer for layer in range(N_LAYERS) for _ in range(N_HEADS + 1))]
    n_pairs = sum(layers * (N_HEADS + 1) + (layers > 0) for layers in later)
    rows = {path.stem: pq.read_metadata(path).num_rows for path in out.glob("many/tables/*.parquet")}
    assert rows["writers"] == n_writers
    assert rows["v_composition"] == n_pairs and rows["dla_correlation"] == 2 * n_pairs
    assert rows["residual_projection"] == n_writers * (2 * N_LAYERS + 1)
    assert rows["component_projection"] == n_writers * (n_writers + 2 * N_LAYERS - 1)
    page = out / "many" / "index.html"
    drawn = figures_of(page)
    assert {"causal", "dla", "layers", "ledger", "heatmaps"} <= set(drawn)
    assert max(len(figures) for figures in drawn.values()) <= MOST_DRAWN_OF_A_CARD
    # plotly.js alone has 4.8 MB
    assert page.stat().st_size < 8 * MB and (out / "compare.html").stat().st_size < 5.5 * MB
