"""The table of every writer in numbers, and the order of writers."""

from __future__ import annotations

import numpy as np
import pytest

from erasure_sweep.dashboards.grids import reading_of
from erasure_sweep.dashboards.model.view import ModelView
from erasure_sweep.dashboards.model.writers_table import writers_in_numbers
from erasure_sweep.workers.labels import component_order
from erasure_sweep.workers.tables.facts.erasure import is_ranked, top_writers, writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, model_tables, row_of

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,), reading=True)


@pytest.fixture(scope="module")
def older() -> ModelTables:
    return fake_model("older", 2, 3, seed=1)


class TestOrder:
    def test_writers_are_in_the_order_of_their_ranks(self, model: ModelTables) -> None:
        ranks = model.tables["writers"].dropna(subset="rank").sort_values("rank")["writer"].tolist()
        assert top_writers(model.tables)[: len(ranks)] == ranks
        # the last layer's writers have no rank, for nothing reads them, and follow in the order of what opposes them
        rest = top_writers(model.tables)[len(ranks) :]
        assert {writer[:2] for writer in rest} == {"L3", "ML"}
        opposed = model.tables["writers"].set_index("writer")["opposed"]
        assert rest == opposed[rest].sort_values(kind="stable").index.tolist()
        assert writers_by_rank(model.tables)["writer"].iloc[-1] == ZERO

    def test_a_run_without_ranks_is_in_the_order_of_what_is_opposed(self, older: ModelTables) -> None:
        assert not is_ranked(writers_by_rank(older.tables))
        opposed = older.tables["writers"].set_index("writer")["opposed"]
        assert top_writers(older.tables) == opposed.sort_values(kind="stable").index.tolist()

    def test_erasers_are_in_stream_order_with_their_sums(self, model: ModelTables) -> None:
        columns = reading_of(model).columns
        assert columns == component_order(sorted(columns, key=lambda label: label[::-1]))
        assert columns[-3:] == ["L3H7", "attn3", "later"]


class TestWritersTable:
    def test_holds_what_is_erased(self, model: ModelTables) -> None:
        table = writers_in_numbers(ModelView(model))
        headings = [column.heading for column in table.columns]
        assert headings[:8] == [
            *(
                "writer",
                "erased, means kept",
                "erased, means removed",
                "written back",
                "erasers",
                "V-composition share",
            ),
            *("DLA r", "DLA slope"),
        ]
        first, expected = table.rows[0], row_of(model, top_writers(model.tables, 1)[0])
        names = ["erased", "erased_centred", "v_composition_share", "dla_r", "dla_slope"]
        assert [first[i] for i in (1, 2, 5, 6, 7)] == [expected[name] for name in names]
        assert first[3] == expected["remaining"] - expected["written"] + expected["erased"]
        betas = model.tables["v_composition"].query("writer == @first[0]").set_index("eraser")["beta"]
        strongest_first = sorted(expected["erasers"].split("+"), key=lambda head: betas[head])
        assert first[4].startswith(", ".join(strongest_first[:6]))

    def test_none_and_not_measured_are_told_apart(self, model: ModelTables) -> None:
        table = writers_in_numbers(ModelView(model))
        erasers = {row[0]: row[4] for row in table.rows}
        assert erasers["L0H0"] == "none"
        assert erasers[ZERO] is None

    def test_counts_are_whole_numbers(self, model: ModelTables) -> None:
        writers = writers_by_rank(model.tables).assign(significant_erasers=4.0)
        writers.loc[writers.index[1], "significant_erasers"] = np.nan
        table = writers_in_numbers(ModelView(model_tables(model.about, {**model.tables, "writers": writers})))
        at = [column.heading for column in table.columns].index("significant erasers")
        cells = [row[at] for row in table.rows]
        assert cells[:3] == [4, None, 4] and isinstance(cells[0], int)
        assert "Two tests find erasers" in table.caption

    def test_of_an_older_run_it_is_the_ledger_alone(self, older: ModelTables) -> None:
        table = writers_in_numbers(ModelView(older))
        assert [column.heading for column in table.columns][:2] == ["writer", "written"]
        assert "another measure" in table.caption
