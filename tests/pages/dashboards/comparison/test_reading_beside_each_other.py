"""Models beside each other in what is erased; models without it beside those with it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.comparison.causal_maps import causal_maps
from erasure_sweep.dashboards.comparison.depth import depth_lines
from erasure_sweep.dashboards.comparison.overview import overview
from erasure_sweep.dashboards.comparison.strips.strip_cards import named_writers
from erasure_sweep.dashboards.grids import reading_of
from erasure_sweep.dashboards.plots.writer_maps import causal_map
from erasure_sweep.dashboards.plots.writer_strips import (
    ERASED,
    strip_points,
)
from erasure_sweep.dashboards.wording import number, protocol_warnings
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, model_tables
from tests.support.fakes.views import comparison_view

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


@pytest.fixture(scope="module")
def older() -> ModelTables:
    return fake_model("older", 2, 3, seed=1)


class TestCompare:
    def test_maps_of_small_models_have_every_writer_and_of_large_ones_layers(self, model: ModelTables) -> None:
        large = fake_model("large", 4, 20, n_tokens=6, d_model=8, reading=True)
        maps = causal_maps([model, large])
        assert list(maps) == [(columns, name) for name in ("four", "large") for columns in ("layers", "heads")]
        plain, centred = maps["heads", "four"]
        assert plain.rows == causal_map(reading_of(model), []).rows
        assert not np.array_equal(plain.values, centred.values, equal_nan=True)
        layers = ["embeddings", *(f"layer {layer} (median)" for layer in range(3))]
        assert maps["heads", "large"][0].rows == [*layers, *top_writers(large.tables, 10)]
        assert maps["heads", "large"][0].columns == ["attn0", "attn1", "attn2", "attn3"]

    def test_models_without_the_table_have_no_map(self, model: ModelTables, older: ModelTables) -> None:
        assert {name for _, name in causal_maps([older, model])} == {"four"}

    def test_overview_ranks_by_what_is_erased(self, model: ModelTables) -> None:
        table = overview(comparison_view([model]))
        assert [column.heading for column in table.columns[5:]] == ["most erased: share (written → remaining)"]
        writers = model.tables["writers"]
        first = writers.loc[writers["erased_centred"].idxmax()]
        ends = "\u00a0→\u00a0".join(number(first[f"{end}_centred"]) for end in ("written", "remaining"))
        assert table.rows[0][5].markup.startswith(f"{first['writer']}\u00a0{number(first['erased_centred'])} ({ends})")
        # sorted by the number and not by the name
        assert table.rows[0][5].value == first["erased_centred"]

    def test_overview_of_older_runs_beside_newer_ones(self, model: ModelTables, older: ModelTables) -> None:
        table = overview(comparison_view([model, older]))
        assert [column.heading.split(":")[0] for column in table.columns[5:]] == [
            "most erased",
            "most opposed",
        ]
        assert table.rows[1][5] is None
        assert table.rows[1][6].startswith(top_writers(older.tables, 1)[0])

    def test_overview_says_none_where_nothing_is_erased(self) -> None:
        writers = pd.DataFrame({"writer": ["embed"], "erased": [-0.2], "rank": [1], "opposed": [-0.1]})
        assert (
            overview(comparison_view([model_tables({"name": "m"}, {"writers": writers})])).rows[0][5].markup == "none"
        )

    def test_depth_follows_the_most_erased(self, model: ModelTables, older: ModelTables) -> None:
        assert (depth_lines(model)[0].role, depth_lines(model)[0].writer) == (
            "most erased",
            top_writers(model.tables, 1)[0],
        )
        assert depth_lines(older)[0].role == "most opposed"

    def test_strips_leave_out_what_was_not_measured(self, model: ModelTables, older: ModelTables) -> None:
        points = strip_points(named_writers([model, older]), ERASED)
        assert set(points["group"]) == {"four"}

    def test_seeds_devices_and_versions_are_told_apart(self) -> None:
        one = model_tables({"seed": 5235, "version": "0.1.0", "device_type": "cpu"}, {})
        other = model_tables({"seed": 1, "version": "0.2.0", "device_type": "cuda"}, {})
        assert protocol_warnings([one, other], ["a", "b"]) == [
            "Models were measured with different seeds: a 5235, b 1.",
            "Models were measured on different devices: a cpu, b cuda.",
            "Models were measured with different versions of erasure-sweep: a 0.1.0, b 0.2.0.",
        ]
        assert protocol_warnings([one, one], ["a", "b"]) == []
