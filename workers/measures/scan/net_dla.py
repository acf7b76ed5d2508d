"""What is left of every writer's direct logit attribution when later heads have read it, over all attention paths.

The net DLA at a token is δ·g, with δ the writer's output carried through all later attention (``paths``) and g the direction of
the logit difference. Its line on the writer's own DLA has slope 1 where nothing is taken back and 0 where all is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.composition import PairRows
from erasure_sweep.workers.measures.scan.erasure_shares import PathSumsAccumulator, merge_prompts
from erasure_sweep.workers.measures.scan.paths import ALL_PATHS, PathProducts, PathReader
from erasure_sweep.workers.measures.statistics.jackknife import FISHER, PLAIN, jackknife
from erasure_sweep.workers.measures.statistics.moments import CONSTANT
from erasure_sweep.workers.records import PathsWork, State
from erasure_sweep.workers.tables.columns import Columns


class NetDla(Measure[PathsWork, PathReader, PathProducts]):
    """The line of every writer's net DLA on its DLA."""

    stage, name = "paths", "net_dla"
    needs = (ALL_PATHS,)
    tables = ("net_dla",)

    def start(self, shard: PathReader) -> PathSumsAccumulator:
        """An empty state for one shard."""
        return PathSumsAccumulator(("line",))

    def merge(self, block: Block[PathsWork], states: Iterable[State]) -> State:
        """The prompts one behind the other."""
        return merge_prompts(states)

    def columns(self, block: Block[PathsWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """A row for each writer that later heads can read."""
        rows, sums = PairRows(block.layout, block.work.writers), states[self.name]["line"]
        read = [index for index, first in enumerate(rows.first_layer) if first < rows.n_layers]
        if not read:
            return {}
        columns: Columns = {"writer": np.array(rows.labels, dtype=object)[read]}
        for name, of, scale in (("r", correlation, FISHER), ("slope", slope, PLAIN)):
            columns |= jackknife(sums[:, :, read], of, scale).columns(name)
        return {"net_dla": columns | {"n": sums[:, 0, read].sum(axis=0).astype(np.int64)}}

    def cost(self, size: ShardSize) -> Cost:
        """Nothing beside what it needs."""
        return Cost()


def slope(sums: Float[np.ndarray, "6 *batch"]) -> Float[np.ndarray, "*batch"]:
    """Slope of y on x, from sums of 1, x, y, x², xy and y²; NaN where x is constant."""
    n, x, y, xx, xy, _ = sums
    found: np.ndarray = (xy - x * y / n) / _varying(xx, x, n)
    return found


def correlation(sums: Float[np.ndarray, "6 *batch"]) -> Float[np.ndarray, "*batch"]:
    """Pearson's correlation, from the same sums; NaN where either is constant."""
    n, x, y, xx, xy, yy = sums
    found: np.ndarray = (xy - x * y / n) / np.sqrt(_varying(xx, x, n) * _varying(yy, y, n))
    return found


def _varying(squares: np.ndarray, total: np.ndarray, n: np.ndarray) -> np.ndarray:
    varying: np.ndarray = squares - total**2 / n
    return np.where(varying > CONSTANT * squares, varying, np.nan)
