"""Tables ``erasers`` made by hand."""

from __future__ import annotations

import pandas as pd


def erasers_table(**heads: tuple[int, float, bool]) -> pd.DataFrame:
    """A row for each head: out of how many of eight earlier heads it takes something, their β in sum, whether it is broad."""
    return pd.DataFrame(
        [
            {
                **{"eraser": head, "writers": 10, "writers_taken": taken, "heads": 8, "heads_taken": taken},
                **{"beta_sum": total, "beta_mean": total / taken if taken else None, "head_median": -0.1},
                **{"random_mean": -0.02, "random_low": -0.04, "random_taken": 0.0625, "broad": broad},
            }
            for head, (taken, total, broad) in heads.items()
        ]
    )
