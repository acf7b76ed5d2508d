"""The registry: every measure is found, by one name, and says what it costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from erasure_sweep.workers.measures import verify
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.measure import DerivedTable
from erasure_sweep.workers.measures.registry import (
    count_sketches,
    derived_tables,
    measures,
    shard_cost,
    sorted_entries,
    table_names,
)
from erasure_sweep.workers.measures.scan.erasers import N_DIRECTIONS
from erasure_sweep.workers.records import (
    AdversarialWork,
    CovarianceWork,
    GroupWork,
    Place,
    PlaceboWork,
    ScanOptions,
    ScanWork,
    Target,
    TrustWork,
    Work,
    WriterBlock,
)
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.registry import tables_of
from tests.support.models.random_models import random_config

SHAPE = random_config(3, 2, 16, d_vocab=100).to_json()


def scan_size(start: int = 0, stop: int = 11, n_prompts: int = 8) -> ShardSize:
    return ShardSize(ScanWork(WriterBlock(start, stop), ScanOptions()), SHAPE, n_prompts, 32, 16)


class Named(DerivedTable):
    """A table of a given name."""

    stage: ClassVar[str] = "scan"
    name: ClassVar[str] = "named"

    def columns(self, *_: Any) -> Columns:
        raise NotImplementedError


class Other(Named):
    name = "another"


def test_what_lies_in_the_folders_is_found() -> None:
    assert [measure.name for measure in measures("scan")] == ["dla", "erasers", "projection", "v_composition"]
    assert [table.name for table in derived_tables("paths")] == ["writers"]
    assert [measure.name for measure in measures("trust")] == ["trust"]
    assert [measure.name for measure in measures("adversarial")] == ["adversarial", "adversarial_tokens"]
    group = [measure.name for measure in measures("group")]
    assert group == sorted(group)
    assert {"eraser_group", "high_places", "position_profile"} < set(group)


NEW_FILE = '''
from erasure_sweep.workers.measures.cost import Cost
from erasure_sweep.workers.measures.measure import Measure


class Newcomer(Measure[object, object, object]):
    """A measure that nobody imports."""

    stage, name, needs, tables = "trust", "newcomer", (), ("newcomer",)

    def start(self, shard): ...
    def merge(self, block, states): ...
    def columns(self, block, states, setting): ...
    def cost(self, size):
        return Cost(passes=1000)
'''


def test_a_measure_is_added_by_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ShardSize(TrustWork(WriterBlock(2, 5), 32), SHAPE, 8, 32, 16)
    before = shard_cost("trust", size).passes  # before the file is there, whether or not measures were asked for yet
    (tmp_path / "newcomer.py").write_text(NEW_FILE)
    monkeypatch.setattr(verify, "__path__", [*verify.__path__, str(tmp_path)])
    measures.cache_clear()
    try:
        assert [measure.name for measure in measures("trust")] == ["newcomer", "trust"]
        assert table_names("trust") == ("newcomer", "dla_trust", "dla_mediation")
        assert shard_cost("trust", size).passes == before + 1000
    finally:
        measures.cache_clear()
        sys.modules.pop(f"{verify.__name__}.newcomer")
        del verify.newcomer


def test_the_tables_of_measures_are_those_that_are_declared() -> None:
    assert set(table_names("scan", "paths")) == set(tables_of("scan"))
    assert set(table_names("covariance", "placebo", "group", "trust", "adversarial")) == set(tables_of("verify"))


def test_two_of_one_name_are_rejected() -> None:
    assert [entry.name for entry in sorted_entries([Named(), Other()])] == ["another", "named"]
    with pytest.raises(ValueError, match=r"both call .* scan 'named'"):
        sorted_entries([Named(), Other(), Named()])


def test_what_measures_share_is_paid_once() -> None:
    size = scan_size()
    cost = shard_cost("scan", size)
    assert cost.passes == 8
    own = [measure.cost(size) for measure in measures("scan")]
    shared = {product for measure in measures("scan") for product in measure.needs}
    assert {product.name for product in shared} == {"trace", "products of terms", "V-composed parts"}
    assert cost.flops == pytest.approx(sum(c.flops for c in [*own, *(product.cost(size) for product in shared)]))
    of_streams = 8 * 3 * 16 * (N_DIRECTIONS + 1)
    assert cost.stored_bytes == 350 * sum(count_sketches(size.layout, ScanOptions())) + of_streams


def test_blocks_of_writers_share_what_grows_with_writers() -> None:
    whole, parts = shard_cost("scan", scan_size()), [shard_cost("scan", scan_size(*part)) for part in ((0, 4), (4, 11))]
    assert sum(part.stored_bytes for part in parts) == whole.stored_bytes
    assert sum(part.passes for part in parts) == 2 * whole.passes
    assert whole.flops < sum(part.flops for part in parts) < 2 * whole.flops
    assert all(part > Cost() for part in parts)


TARGETS = (
    Target("L0H0", ("L1H0", "L2H1"), "rule"),
    Target("L0H1", ("L1H0",), "named"),
    Target("L0H1", ("L2H0",), "rule"),
)
PLACES = (Place("L0H0", "found", 3, 20), Place("L0H1", "found", 4, 9))


@pytest.mark.parametrize(
    ("stage", "work", "passes"),
    [
        # Each prompt once; three reruns of each of two writers, two patches and one layer's input of each of three targets.
        ("covariance", CovarianceWork(("L0H0", "L0H1", "MLP0")), 8),
        ("placebo", PlaceboWork(("L0H0", "L0H1"), 20), 8),
        ("group", GroupWork(TARGETS, 2, 20), 8 * (1 + (3 * 2 + 2 * 3 + 3) / 2)),
        # Of each prompt a half.
        ("trust", TrustWork(WriterBlock(2, 5), 16), 4 * (1 + 3 / 2)),
        ("trust", TrustWork(WriterBlock(2, 5), 99, True), 8 * (1 + 3 / 2)),
        ("adversarial", AdversarialWork(PLACES, (), tuple(range(5)), True), 2 + 5 + 2),
    ],
)
def test_passes_of_verify(stage: str, work: Work, passes: float) -> None:
    cost = shard_cost(stage, ShardSize(work, SHAPE, 8, 32, 16))
    assert cost.passes == passes
    assert cost.stored_bytes > 0
    longer = shard_cost(stage, ShardSize(work, SHAPE, 16, 32, 16))
    assert longer.passes >= cost.passes
    assert longer.flops == pytest.approx(2 * cost.flops)
