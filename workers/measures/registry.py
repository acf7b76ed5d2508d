"""The registry: finds measures and derived tables in the files of ``measures/scan`` and ``measures/verify``."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from inspect import isabstract
from itertools import pairwise
from types import ModuleType
from typing import Any, TypeVar

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures import scan, verify
from erasure_sweep.workers.measures.cost import Cost, ShardSize, total
from erasure_sweep.workers.measures.measure import DerivedTable, Measure
from erasure_sweep.workers.records import ScanOptions

AnyMeasure = Measure[Any, Any, Any]
Entry = TypeVar("Entry", AnyMeasure, DerivedTable)


@cache
def measures(stage: str) -> tuple[AnyMeasure, ...]:
    """Measures of a stage in the order of their names, in which they run, export and merge."""
    return tuple(entry for entry in _entries(Measure) if entry.stage == stage)


@cache
def derived_tables(stage: str) -> tuple[DerivedTable, ...]:
    """Tables that follow from those of a stage's measures."""
    return tuple(entry for entry in _entries(DerivedTable) if entry.stage == stage)


def table_names(*stages: str) -> tuple[str, ...]:
    """Every table that some stages write, once each."""
    measured = (name for stage in stages for measure in measures(stage) for name in measure.tables)
    derived = (table.name for stage in stages for table in derived_tables(stage))
    return tuple(dict.fromkeys((*measured, *derived)))


def shard_cost(stage: str, size: ShardSize) -> Cost:
    """What a shard takes: its measures, and once each what they need."""
    needed = dict.fromkeys(product for measure in measures(stage) for product in measure.needs)
    return total([*(product.cost(size) for product in needed), *(measure.cost(size) for measure in measures(stage))])


def count_sketches(layout: Layout, options: ScanOptions) -> tuple[int, ...]:
    """How many sketches a shard of the scan keeps of each writer."""
    return tuple(map(sum, zip(*(measure.sketches(layout, options) for measure in measures("scan")), strict=True)))


def sorted_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries by stage and name.

    Raises:
        ValueError: two of one stage have one name.
    """
    ordered = sorted(entries, key=lambda entry: (entry.stage, entry.name))
    for first, second in pairwise(ordered):
        if (first.stage, first.name) == (second.stage, second.name):
            raise ValueError(
                f"{type(first).__module__} and {type(second).__module__} both call a measure of the stage "
                f"{first.stage} {first.name!r}"
            )
    return tuple(ordered)


def _entries(kind: type[Any]) -> tuple[Any, ...]:
    """One of every class of a kind that the files of the two folders define."""
    return sorted_entries(
        value()
        for module in _modules(scan, verify)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, kind)
        and value.__module__ == module.__name__
        and not isabstract(value)
    )


def _modules(*packages: ModuleType) -> Iterator[ModuleType]:
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield import_module(module.name)
