"""From the states of a stage's shards to its tables, one block of shards at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from erasure_sweep.workers.measures.measure import Block, Setting, stack
from erasure_sweep.workers.measures.registry import derived_tables, measures
from erasure_sweep.workers.records import State
from erasure_sweep.workers.tables.columns import Columns


def merge_states(stage: str, block: Block[Any], read: Callable[[str], Iterable[State]]) -> dict[str, State]:
    """Merged states of a block's shards, by measure.

    Args:
        read: the shards' states of a measure, in plan order.
    """
    return {measure.name: measure.merge(block, read(measure.name)) for measure in measures(stage)}


def stage_tables(
    stage: str,
    blocks: Iterable[tuple[Block[Any], Mapping[str, State]]],
    setting: Setting,
    before: Mapping[str, Columns] = MappingProxyType({}),
) -> dict[str, Columns]:
    """All tables of a stage; those that no block has rows for are left out.

    Args:
        blocks: with their merged states, in plan order; read one at a time.
        before: tables of the stages before it, from which its own may follow as well.
    """
    parts: dict[str, list[Columns]] = {}
    layout = None
    for block, states in blocks:
        layout = block.layout
        for measure in measures(stage):
            for name, columns in measure.columns(block, states, setting).items():
                parts.setdefault(name, []).append(columns)
    tables = {name: stack(columns) for name, columns in parts.items()}
    if layout is None:
        return tables
    for measure in measures(stage):
        measure.complete(tables, setting)
    known = {**before, **tables}
    return tables | {table.name: table.columns(layout, known, setting) for table in derived_tables(stage)}
