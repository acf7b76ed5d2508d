"""How many positions of each prompt are enough: results from some of them beside results from all.

Bundled models read the standard library; everything is measured at some positions of every prompt, drawn as a sweep draws
them, and again at all. What shifts is what a sweep would report: medians, the writers that are erased most and by how much,
their ranking, and which heads are called erasers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from erasure_sweep.workers.corpora.resolve_corpus import load_tokens, resolve_corpus
from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model
from erasure_sweep.workers.positions import measured_positions
from tests.benchmarks.settings import Settings
from tests.benchmarks.timing import Row, spread
from tests.support.oracle.measuring import measure_tables

SUBJECT = "positions enough"
TOP = 10
"""Writers that are looked at one by one, those erased most by reading."""
BATCH = 8
Tables = dict[str, pd.DataFrame]


def measure_positions(settings: Settings) -> Iterator[Row]:
    """Rows for every model and number of positions."""
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="erasure-sweep-bench-") as folder:
        for name in settings.enough_models:
            model, tokens = _open(name, settings, Path(folder))
            n_prompts, seq_len = tokens.shape
            whole = _measure(model, tokens, None)
            for n in settings.enough_positions:
                some = _measure(model, tokens, measured_positions(0, 0, n_prompts, seq_len, n))
                for measured, value in compare(whole, some).items():
                    yield Row(SUBJECT, f"{name}, {n_prompts} × {seq_len}", measured, "", spread([value]), column=str(n))


def _open(name: str, settings: Settings, staging: Path) -> tuple[LeanModel, np.ndarray]:
    resolved = resolve_model(name, staging)
    request = CorpusRequest("stdlib", settings.enough_prompts, settings.enough_seq_len, 0)
    config = resolved.config
    corpus = resolve_corpus(request, resolved.tokenizer, config.d_vocab, config.n_ctx, staging)
    return load_model(resolved.weights)[1], load_tokens(corpus.tokens).astype(np.int64)


def _measure(model: LeanModel, tokens: np.ndarray, positions: np.ndarray | None) -> Tables:
    """Tables of a scan, one shard."""
    return measure_tables(model, tokens, positions, block=len(tokens), batch=BATCH, first_position=False)


def compare(whole: Tables, some: Tables) -> dict[str, float]:
    """How far results from some positions are from those from all."""
    writers = [tables["writers"].set_index("writer") for tables in (whole, some)]
    return {
        **_shifts(
            "median of V-composed PR", *(tables["v_composition"]["v_composed_median"] for tables in (whole, some))
        ),
        **_shifts("median of residual PR", *(tables["residual_projection"]["median"] for tables in (whole, some))),
        **_ranking(*(table["erased"] for table in writers)),
        **_erasers(*(table["erasers"] for table in writers)),
    }


def _shifts(title: str, whole: pd.Series, some: pd.Series) -> dict[str, float]:
    shifts = (some - whole).abs()
    return {
        f"shift of {title}, 95th percentile": float(shifts.quantile(0.95)),
        f"shift of {title}, largest": float(shifts.max()),
    }


def _ranking(whole: pd.Series, some: pd.Series) -> dict[str, float]:
    """Of what is erased by reading."""
    top, shifts = whole.nlargest(TOP), (some - whole).abs()
    return {
        f"shift of erased, largest of the top {TOP}": float(shifts[top.index].max()),
        "… as a share of its own size": float((shifts[top.index] / top.abs()).max()),
        "Spearman's correlation of the ranking": float(whole.corr(some, method="spearman")),
        f"top {TOP} writers that stay in it": len(top.index.intersection(some.nlargest(TOP).index)),
    }


def _erasers(whole: pd.Series, some: pd.Series) -> dict[str, float]:
    a, b = _pairs(whole), _pairs(some)
    return {
        "writers with the same list of erasers, share": float((whole == some)[whole.notna()].mean()),
        "erasers of both lists, share of those in either": len(a & b) / max(1, len(a | b)),
    }


def _pairs(erasers: pd.Series) -> set[tuple[str, str]]:
    """Every writer with each of its erasers."""
    lists = erasers.dropna().items()
    return {(str(writer), eraser) for writer, text in lists for eraser in text.split("+") if eraser}
