"""Measure a model in the test's own process, split as a sweep might split it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from workers.measures import SCAN
from workers.measures.tables import scan_tables
from workers.products import ProductReader
from workers.records import Group, ScanOptions, State, Thresholds, WriterBlock
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
    ln: str = "frozen",
    groups: tuple[Group, ...] = (),
) -> dict[str, pd.DataFrame]:
    """Tables of a scan: prompts in blocks of ``block``, forward passes of ``batch``, ``writers`` writers in a block."""
    n_writers = len(model.config.layout.writers)
    size = writers or n_writers
    spans = [WriterBlock(start, min(start + size, n_writers)) for start in range(0, n_writers, size)]
    options = ScanOptions(ln=ln, groups=groups)
    merged = []
    for span in spans:
        shards = [
            measure_shard(model, span, tokens[i : i + block], _part(positions, i, block), batch, i, options)
            for i in range(0, len(tokens), block)
        ]
        states = {name: m.merge(model, span, options, [shard[name] for shard in shards]) for name, m in SCAN.items()}
        merged.append((span, states))
    return {
        name: pd.DataFrame(columns) for name, columns in scan_tables(model, merged, options, Thresholds(tau)).items()
    }


def measure_shard(
    model: LeanModel,
    span: WriterBlock,
    tokens: np.ndarray,
    positions: np.ndarray | None,
    batch: int,
    first_prompt: int,
    options: ScanOptions,
) -> dict[str, State]:
    """States of one shard, by measure."""
    reader = ProductReader(model, span, options)
    accumulators = {name: measure.start(reader) for name, measure in SCAN.items()}
    for start in range(0, len(tokens), batch):
        rows = torch.from_numpy(tokens[start : start + batch]).to(model.device)
        chosen = None if positions is None else torch.from_numpy(positions[start : start + batch]).to(model.device)
        trace = model.trace(rows, chosen, keep_resid=options.ln == "recompute")
        for prompt in range(len(rows)):
            products = reader.read(trace, prompt, first_prompt + start + prompt)
            for accumulator in accumulators.values():
                accumulator.update(products)
    return {name: accumulator.export() for name, accumulator in accumulators.items()}


def _part(positions: np.ndarray | None, start: int, size: int) -> np.ndarray | None:
    return None if positions is None else positions[start : start + size]
