"""What later heads erase of every writer over all attention paths, and which layer and head takes how much of it.

    erased = 1 − β(δ at the end, w) = Σ shares        share of a head = −β(what it adds to δ, w)

δ is the writer's output carried through all later attention with patterns, scales and MLPs at their clean values
(``paths``). Unlike direct paths (``v_composition``), which ask whether a head reads the writer and writes against it, shares of
erasers in series add up: what the first has taken out the next cannot take again. Intervals are by leaving out a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.composition import PairRows
from erasure_sweep.workers.measures.scan.paths import ALL_PATHS, FAMILIES, PathProducts, PathReader
from erasure_sweep.workers.measures.scan.projection import CONSTANT
from erasure_sweep.workers.measures.statistics.jackknife import jackknife
from erasure_sweep.workers.measures.statistics.prompt_sums import STORED_BYTES_PER_SUM, deal
from erasure_sweep.workers.records import PathsWork, State
from erasure_sweep.workers.tables.columns import Columns

SUFFIXES = ("", "_centred", "_first")
"""Of the columns of each family."""


class PathSumsAccumulator:
    """Sums of each prompt of a shard, under some of the names of ``PathProducts``."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._prompts: list[PathProducts] = []

    def update(self, products: PathProducts) -> None:
        """Keep one prompt's sums."""
        self._prompts.append(products)

    def export(self) -> State:
        """The sums, prompt by prompt."""
        return {
            name: np.stack([getattr(products, name).cpu().numpy() for products in self._prompts])
            for name in self._names
        }


def merge_prompts(states: Iterable[State]) -> State:
    """Sums of many shards, prompt by prompt in the order of the corpus."""
    parts = list(states)
    return {name: deal([state[name] for state in parts]) for name in parts[0]}


class ErasureShares(Measure[PathsWork, PathReader, PathProducts]):
    """Shares of all later heads in what is erased of every writer."""

    stage, name = "paths", "erasure_shares"
    needs = (ALL_PATHS,)
    tables = ("erasure_shares",)

    def start(self, shard: PathReader) -> PathSumsAccumulator:
        """An empty state for one shard."""
        return PathSumsAccumulator(("along", "power", "n_valid"))

    def merge(self, block: Block[PathsWork], states: Iterable[State]) -> State:
        """The prompts one behind the other."""
        return merge_prompts(states)

    def columns(self, block: Block[PathsWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """Rows of all writers and later heads."""
        rows, state = PairRows(block.layout, block.work.writers), states[self.name]
        columns: Columns = {"writer": rows.writers, "eraser": rows.erasers}
        for family, suffix in enumerate(SUFFIXES):
            along = state["along"][:, family].T.copy()
            rows.sum_heads(along)
            power = state["power"][:, family][:, rows.writer]
            estimate = jackknife(np.stack([along.T, power], axis=1), lambda sums: -sums[0] / sums[1])
            has = has_share(state, family)[rows.writer]
            for name, values in estimate.columns(f"share{suffix}").items():
                columns[name] = np.where(has, values, np.nan)
        n_prompts = (state["power"] > 0).sum(axis=0)
        columns["prompts"] = n_prompts[0][rows.writer]
        columns["prompts_centred"] = n_prompts[1][rows.writer]
        return {"erasure_shares": columns}

    def cost(self, size: ShardSize) -> Cost:
        """Sums are small where they are worked out; they are stored prompt by prompt."""
        assert isinstance(size.work, PathsWork)
        n_rows = len(PairRows(size.layout, size.work.writers))
        return Cost(stored_bytes=STORED_BYTES_PER_SUM * len(FAMILIES) * size.n_prompts * n_rows)


def has_share(state: State, family: int) -> Bool[np.ndarray, "writer"]:
    """Which writers write anything, and for the centred family anything that varies."""
    power: Float[np.ndarray, "family writer"] = state["power"].sum(axis=0)
    has: np.ndarray = (state["n_valid"].sum(axis=0) > 0) & (power[family] > 0)
    if FAMILIES[family] == "centred":
        followed = state["power"][:, family].sum(axis=1) > 0
        has &= power[family] > CONSTANT * state["power"][followed, 0].sum(axis=0)
    return has
