"""How many erasers are significant, model by model."""

from __future__ import annotations

import pytest

from erasure_sweep.dashboards.comparison.significant_erasers import SignificantPairs, plot_significant, significant
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model

NAMED = ("L1H0", "L2H1")


@pytest.fixture(scope="module")
def model() -> ModelTables:
    """Eight prompts of twelve tokens in two blocks; of L0H1 a named group, and what the rule finds."""
    return fake_model("m", 3, 3, seed=3, n_tokens=96, d_model=40, zero=("L1H1",), verify=True, groups={"L0H1": NAMED})


class TestSignificant:
    def test_counts_found_beside_tested(self, model: ModelTables) -> None:
        layout = Layout(3, 3)
        readers = [w for w in layout.writers if w != "L1H1" and len(set(layout.heads) & set(_later(layout, w)))]
        pairs = sum(len(set(layout.heads) & set(_later(layout, writer))) for writer in readers)
        shown = significant([("m", model), ("older", fake_model("o", 2, 2, n_tokens=24, reading=True))])
        assert shown == [SignificantPairs("m", int(model.tables["v_composition"]["significant"].sum()), pairs)]
        figure = plot_significant([SignificantPairs("m", 12, 320)])
        assert figure.data[0].y == (12 / 320,)
        assert figure.data[0].text == ("12 of 320",)


def _later(layout: Layout, writer: str) -> list[str]:
    return [layout.terms[index] for index in layout.later_terms(writer)]
