"""The tables of a scan, from the merged states of its measures, one block of writers at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from erasure_sweep.workers.measures.measure import Columns, stack
from erasure_sweep.workers.measures.scan.composition import PairRows
from erasure_sweep.workers.measures.scan.dla import Lines, finish_lines, line_columns
from erasure_sweep.workers.measures.scan.ledger import Reading, ledger_columns
from erasure_sweep.workers.measures.scan.projection import Statistics, finish_statistics, projection_columns
from erasure_sweep.workers.measures.scan.significance import discoveries
from erasure_sweep.workers.measures.scan.v_composition import PairStatistics, finish_pairs, pair_columns, single_heads
from erasure_sweep.workers.measures.statistics.quantile_sketch import QUANTILES
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanOptions, State, Thresholds, WriterBlock

TABLES = ("residual_projection", "component_projection", "v_composition", "dla_correlation", "writers")


def scan_tables(
    model: LeanModel,
    blocks: Iterable[tuple[WriterBlock, Mapping[str, State]]],
    options: ScanOptions,
    thresholds: Thresholds,
) -> dict[str, Columns]:
    """All tables of a scan.

    Args:
        blocks: for each block of writers, in order, the merged state of each measure; read one at a time.
    """
    layout = model.config.layout
    parts: dict[str, list[Columns]] = {name: [] for name in TABLES}
    tested: list[np.ndarray] = []
    for block, states in blocks:
        rows = PairRows(layout, block, options.groups)
        statistics = finish_statistics(layout, rows.labels, states["projection"])
        pairs = finish_pairs(model, rows, states["v_composition"], statistics, thresholds.tau)
        lines = finish_lines(layout, rows, states["dla"])
        for index, writer in enumerate(rows.labels):
            others = tuple(label for label in layout.components if label != writer)
            for name, key, labels in (
                ("residual_projection", "state", layout.states),
                ("component_projection", "component", others),
            ):
                parts[name].append(projection_columns(layout, statistics, index, key, labels, writer))
            parts["v_composition"].append(pair_columns(rows, pairs, statistics, index))
            tested.append(single_heads(rows, index))
            parts["dla_correlation"].append(line_columns(rows, lines, index))
        reading = _reading(rows, statistics, pairs, lines, layout.row_index, thresholds)
        parts["writers"].append(ledger_columns(layout, rows.labels, statistics.beta, statistics.beta_centred, reading))
    tables = {name: stack(columns) for name, columns in parts.items()}
    pairs_table, writers = tables["v_composition"], tables["writers"]
    pairs_table["significant"] = discoveries(pairs_table["p"], np.concatenate(tested))
    writers["significant_erasers"] = _significant_erasers(writers["writer"], pairs_table)
    writers["rank"] = _ranks(writers["erased_by_reading"])
    return tables


def _reading(
    rows: PairRows,
    statistics: Statistics,
    pairs: PairStatistics,
    lines: Lines,
    row_index: Mapping[str, int],
    thresholds: Thresholds,
) -> list[Reading | None]:
    """What the ``writers`` table says of each writer's later heads; ``None`` for a writer without later heads or output."""
    names = list(QUANTILES)
    full_median, full_upper = (statistics.quantiles[..., names.index(name)] for name in ("median", "q75"))
    found: list[Reading | None] = []
    for index in range(len(rows.labels)):
        mine, later = rows.of(index), rows.later(index)
        labels = np.array(rows.erasers(index), dtype=object)
        if len(labels) == 0 or statistics.n[index] == 0:
            found.append(None)
            continue
        heads = single_heads(rows, index)
        median, upper = (pairs.quantile("v_composed", name)[mine] for name in ("median", "q75"))
        erases = heads & (median <= -thresholds.tau) & (upper < 0)
        full = [row_index[label] for label in labels[heads]]
        opposes = np.zeros(len(labels), dtype=bool)
        opposes[heads] = (full_median[index, full] <= -thresholds.tau) & (full_upper[index, full] < 0)
        opposed = -statistics.beta[index, [row_index[label] for label in labels[erases]]].sum()
        found.append(
            Reading(
                erased=-pairs.beta[later],
                erased_centred=-pairs.beta_centred[later],
                erasers="+".join(labels[erases]),
                opposing="+".join(labels[opposes & ~erases]),
                share=-pairs.beta[mine][erases].sum() / opposed if opposed > 0 else np.nan,
                dla_r=lines.r[1, later],
                dla_slope=lines.slope[1, later],
            )
        )
    return found


def _significant_erasers(writers: np.ndarray, pairs: Columns) -> np.ndarray:
    """How many of each writer's later heads are significant; NaN where none was tested."""
    counts: dict[str, int] = {}
    for writer, significant in zip(pairs["writer"], pairs["significant"], strict=True):
        if significant is not None:
            counts[writer] = counts.get(writer, 0) + significant
    return np.array([counts.get(writer, np.nan) for writer in writers])


def _ranks(erased: np.ndarray) -> np.ndarray:
    """1 for the writer that is erased most; NaN stays NaN."""
    order = np.argsort(-erased, kind="stable")
    ranks = np.full(len(erased), np.nan)
    measured = order[: np.isfinite(erased).sum()]
    ranks[measured] = np.arange(1, len(measured) + 1)
    return ranks
