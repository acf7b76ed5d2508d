"""Invented models with verified writers, and how tests of what was verified of them read their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from erasure_sweep.workers.tables.facts.verified import VerifiedGroup
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import model_tables

NAMED = ("L1H0", "L2H1")
"""The heads that the user named as erasers of L0H1."""


def group_of(writer: str, label: str) -> VerifiedGroup:
    """A group whose heads stand in their order in the stream."""
    return VerifiedGroup(writer, label, tuple(label.split("+")))


GROUP = group_of("L0H1", "L1H0+L2H1")


def only(table: pd.DataFrame, **keys: Any) -> pd.Series:
    """The one row with these keys."""
    wanted = np.logical_and.reduce([table[name] == value for name, value in keys.items()])
    assert wanted.sum() == 1
    return table[wanted].iloc[0]


def tables_of(**rows: list[dict[str, Any]]) -> ModelTables:
    """A model with these rows alone."""
    return model_tables({}, {name: pd.DataFrame(found) for name, found in rows.items()})
