"""The eraser rule at its edges."""

import numpy as np

from erasure_sweep.workers.measures.scan.eraser_rule import takes_away


def test_median_at_most_minus_tau_and_upper_quartile_below_zero():
    median = np.array([-0.05, -0.049, -0.5, -0.5, np.nan])
    upper_quartile = np.array([-0.01, -0.01, 0.0, -1e-9, -0.1])
    assert takes_away(median, upper_quartile, 0.05).tolist() == [True, False, False, True, False]
