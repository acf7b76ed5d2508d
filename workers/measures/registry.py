"""The registry of measures: what a scan measures, found by name."""

from __future__ import annotations

from erasure_sweep.workers.measures.measure import Measure
from erasure_sweep.workers.measures.scan.dla import Dla
from erasure_sweep.workers.measures.scan.projection import Projection
from erasure_sweep.workers.measures.scan.v_composition import VComposition


def register(*measures: Measure) -> dict[str, Measure]:
    """Measures by name.

    Raises:
        ValueError: two measures have one name.
    """
    registry: dict[str, Measure] = {}
    for measure in measures:
        if measure.name in registry:
            raise ValueError(f"two measures are called {measure.name!r}")
        registry[measure.name] = measure
    return registry


SCAN = register(Projection(), VComposition(), Dla())
"""Measures of the scan stage, in the order in which they run."""
