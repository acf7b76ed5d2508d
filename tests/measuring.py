"""Measure a model in the test's own process, split as a sweep might split it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from workers.measures import SCAN
from workers.measures.base import State
from workers.records import Thresholds, WriterBlock
from workers.trace import LeanModel


def measure_tables(
    model: LeanModel,
    tokens: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    block: int = 4,
    batch: int = 2,
    writers: int | None = None,
    tau: float = 0.05,
) -> dict[str, pd.DataFrame]:
    """Tables of a scan: prompts in blocks of ``block``, forward passes of ``batch``, ``writers`` writers in a block."""
    n_writers = len(model.config.layout.writers)
    size = writers or n_writers
    spans = [WriterBlock(start, min(start + size, n_writers)) for start in range(0, n_writers, size)]
    tables = {}
    for measure in SCAN.values():
        merged = []
        for span in spans:
            states = [
                _shard(measure, model, span, tokens[i : i + block], _part(positions, i, block), batch)
                for i in range(0, len(tokens), block)
            ]
            merged.append((span, measure.merge(model.config, span, states)))
        tables |= {name: pd.DataFrame(c) for name, c in measure.tables(model.config, merged, Thresholds(tau)).items()}
    return tables


def _shard(measure, model, span, tokens, positions, batch) -> State:
    accumulator = measure.start(model, span)
    for start in range(0, len(tokens), batch):
        chosen = None if positions is None else torch.from_numpy(positions[start : start + batch])
        accumulator.update(model.trace(torch.from_numpy(tokens[start : start + batch]), chosen))
    return accumulator.export()


def _part(positions: np.ndarray | None, start: int, size: int) -> np.ndarray | None:
    return None if positions is None else positions[start : start + size]
