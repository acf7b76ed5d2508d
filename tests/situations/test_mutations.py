"""Valid inputs, damaged or disguised at random"""

from __future__ import annotations

import itertools
import os
import shutil

import hypothesis
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from erasure_sweep.workers.printable import printable_line
from tests.support.bad_input import Bench, Ran, assert_nothing_finished
from tests.support.mutations import MUTATIONS, Place
from tests.support.tiers import seeds

FIXED = hypothesis.settings(
    database=None,
    deadline=None,
    max_examples=8,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
"""Examples follow from the seed alone; nothing is kept from one run to the next."""


def tables_of(ran: Ran) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted(ran.out.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> dict[str, pd.DataFrame]:
    place = Place(bench.root / "undisturbed")
    tables = tables_of(bench.call(place.root / "out", place.arguments(place.root / "out", bench.tracking_uri)))
    assert tables
    return tables


def assert_told_or_right(ran: Ran, same: bool, undisturbed: dict[str, pd.DataFrame]) -> None:
    """Tables, the undisturbed ones where nothing changed; or one line, its exit code, and nothing that looks finished."""
    assert "Traceback" not in ran.stderr and "unexpected" not in ran.stderr, ran.stderr
    if ran.code == 0:
        assert ran.stderr == "" and set(ran.states.values()) == {"FINISHED"}, ran
        tables = tables_of(ran)
        assert set(tables) == set(undisturbed)
        assert not same or all(tables[name].equals(undisturbed[name]) for name in undisturbed)
    else:
        assert not same and ran.code in (1, 2), ran.stderr
        (line,) = ran.stderr.splitlines()
        assert line.startswith("erasure-sweep: ") and printable_line(line) == line and len(line) < 1000, line
        assert_nothing_finished(ran)


@pytest.mark.parametrize("seed", seeds(1, 20))
@pytest.mark.parametrize("kind", MUTATIONS)
def test_whatever_is_damaged(
    bench: Bench, undisturbed: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int
):
    """Any value, byte or tensor of a config, model or corpus that is damaged, doubled, gone or of another kind.

    A line that says what is wrong, the documented exit code, and nothing that looks finished; or the right tables,
    where the same is said in another way.
    """
    folder, places = tmp_path_factory.mktemp("places"), itertools.count()

    @hypothesis.seed(seed)
    @FIXED
    @hypothesis.given(st.data())
    def hold(data: st.DataObject) -> None:
        place, mask = Place(folder / f"{kind}-{seed}-{next(places):04d}"), os.umask(0o022)
        try:
            with pytest.MonkeyPatch.context() as patch:
                mutate = data.draw(st.sampled_from(MUTATIONS[kind]))
                patch.chdir(place.root)
                same = mutate(place, data.draw, patch)
                out = place.root / "out"
                ran = bench.call(out, place.arguments(out, bench.tracking_uri))
            assert_told_or_right(ran, same, undisturbed)
        finally:
            os.umask(mask)
            shutil.rmtree(place.root)

    hold()
