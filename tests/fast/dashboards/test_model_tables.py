"""Tables as the pages read them, a sweep's folder as they find it, and the words they use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.model_tables import ModelTables, grid_of, read_out
from erasure_sweep.dashboards.plots.theme import robust_range, text
from erasure_sweep.dashboards.wording import amount, measured_line, number, protocol_warnings
from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.labels import Layout, component_order, kind_of, place_of, state_order
from erasure_sweep.workers.tables.facts.erasure import top_writers, writers_by_rank
from erasure_sweep.workers.tables.values import numeric
from tests.support.fakes.tables import cell, components, fake_manifest, fake_model, residual, write_out

ZERO = "L1H3"


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("four", 4, 8, seed=4, zero=(ZERO,))


@pytest.fixture(scope="module")
def attn_only() -> ModelTables:
    return fake_model("bare", 2, 3, attn_only=True, seed=1)


class TestGrid:
    @pytest.mark.parametrize("shape", [(4, 8, False), (12, 12, False), (2, 3, True)])
    def test_orders_are_those_of_the_layout_whatever_the_order_of_rows(self, shape: tuple[int, int, bool]) -> None:
        layout = Layout(*shape)
        assert component_order(sorted(layout.components)) == list(layout.components)
        assert state_order(sorted(layout.states)) == list(layout.states)

    def test_every_cell_is_the_tables_and_the_rest_is_nan(self, model: ModelTables) -> None:
        grid, table = components(model), model.tables["component_projection"]
        assert grid.columns == list(Layout(4, 8).components)
        for statistic in ("q25", "median", "beta_centred"):
            expected = cell(table, "component", "L0H2", "MLP3", statistic)
            assert grid.row("L0H2", statistic)[grid.column_index["MLP3"]] == expected
        own = grid.row("L0H2", "median")[grid.column_index["L0H2"]]
        assert np.isnan(own)
        assert np.isfinite(grid.row("L0H2", "median")).sum() == len(grid.columns) - 1

    def test_rows_in_another_order_change_nothing(self, model: ModelTables) -> None:
        table = model.tables["residual_projection"]
        shuffled = grid_of(table.sample(frac=1, random_state=0), "state")
        assert shuffled.writers == residual(model).writers
        np.testing.assert_array_equal(shuffled.values["median"], residual(model).values["median"])

    def test_a_zero_writer_is_not_measured(self, model: ModelTables) -> None:
        grid = residual(model)
        assert ZERO in grid.writers
        assert ZERO not in grid.measured
        assert len(grid.measured) == len(grid.writers) - 1

    def test_no_table_or_no_columns_is_an_empty_grid(self) -> None:
        for table in (None, pd.DataFrame(), pd.DataFrame({"writer": ["embed"]})):
            grid = grid_of(table, "state")
            assert (grid.writers, grid.columns, grid.measured) == ([], [], [])
            assert len(grid.row("embed", "median")) == 0

    def test_nulls_of_any_dtype_become_nan(self) -> None:
        table = pd.DataFrame({"a": [None, None], "b": ["x", 2], "c": pd.array([1, None], dtype="Int64")})
        assert np.isnan(numeric(table, "a")).all()
        np.testing.assert_array_equal(numeric(table, "b"), [np.nan, 2.0])
        np.testing.assert_array_equal(numeric(table, "c"), [1.0, np.nan])
        assert np.isnan(numeric(table, "missing")).all()

    @pytest.mark.parametrize(
        ("label", "kind", "place"),
        [
            ("embed", "embeddings", (-1, 0)),
            ("pos_embed", "embeddings", (-1, 0)),
            ("L10H11", "head", (10, 0)),
            ("b_O3", "bias", (3, 0)),
            ("attn3", "attention", (3, 0)),
            ("MLP2", "MLP", (2, 1)),
            ("<b>L0H2", "other", None),
            ("Later", "other", None),
        ],
    )
    def test_kinds_and_places(self, label: str, kind: str, place: tuple[int, int] | None) -> None:
        assert kind_of(label) == kind
        assert place_of(label) == place

    def test_top_writers_are_the_most_opposed_and_skip_the_unmeasured(self, model: ModelTables) -> None:
        opposed = model.tables["writers"].set_index("writer")["opposed"]
        top = top_writers(model.tables)
        assert top == opposed.dropna().sort_values(kind="stable").index.tolist()
        assert top_writers(model.tables, 3) == top[:3]
        assert writers_by_rank(model.tables)["writer"].iloc[-1] == ZERO


class TestReadOut:
    def test_reads_what_a_sweep_leaves(self, model: ModelTables, attn_only: ModelTables, tmp_path: Path) -> None:
        write_out([model, attn_only], tmp_path)
        found = read_out(tmp_path)
        assert [one.about for one in found] == [model.about, attn_only.about]
        assert set(found[0].tables) == {"residual_projection", "component_projection", "writers"}
        pd.testing.assert_frame_equal(
            found[1].tables["residual_projection"], attn_only.tables["residual_projection"], check_dtype=False
        )

    def test_a_failed_model_has_no_tables(self, model: ModelTables, tmp_path: Path) -> None:
        failed = ModelTables({**model.about, "folder": "gone", "state": "FAILED"}, {})
        write_out([failed], tmp_path)
        assert read_out(tmp_path)[0].tables == {}

    def test_another_schema_version_is_named(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path, schema_version="1")
        with pytest.raises(DataError, match=r"manifest\.json has schema_version '1', this version reads '2'"):
            read_out(tmp_path)

    def test_a_table_without_version_is_named(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path)
        table = tmp_path / "four" / "tables" / "writers.parquet"
        model.tables["writers"].to_parquet(table)
        with pytest.raises(DataError, match=r"writers\.parquet has schema_version None"):
            read_out(tmp_path)

    def test_a_torn_table_is_named_in_one_line(self, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path)
        table = tmp_path / "four" / "tables" / "writers.parquet"
        table.write_bytes(table.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"writers\.parquet is damaged") as caught:
            read_out(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": "2", "models": 3}'])
    def test_a_broken_manifest_is_named(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=r"manifest\.json"):
            read_out(tmp_path)

    @pytest.mark.parametrize("folder", ["../outside", "/etc", "..", "a/b", "a\\b"])
    def test_a_manifest_does_not_lead_elsewhere(self, folder: str, model: ModelTables, tmp_path: Path) -> None:
        write_out([model], tmp_path / "out")
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        manifest["models"][0]["folder"] = folder
        (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match="is none of the sweep's own"):
            read_out(tmp_path / "out")

    def test_a_folder_without_manifest_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"manifest\.json is missing"):
            read_out(tmp_path)


class TestWords:
    def test_numbers(self) -> None:
        assert [number(v) for v in (-0.907, 0.001, -0.001, None, float("nan"), "x")] == [
            "−0.91",
            "0.00",
            "0.00",
            *"———",
        ]
        assert [amount(v) for v in (912, 98304, 124_439_808, 1.5e9, None)] == [
            *("912", "98,304", "124 million", "1.5 billion", "—")
        ]
        assert [amount(v) for v in (999_400, 999_600_000, 2.5e12, 1.23e15)] == [
            *("999,400", "1 billion", "2.5 trillion", "1,230 trillion")
        ]

    def test_what_was_measured(self, model: ModelTables) -> None:
        said = measured_line(model.about, fake_manifest([model]))
        assert said == (
            "Measured on 8 prompts of 12 tokens, every position (96 tokens), corpus stdlib, seed 5235, float32, on cpu, "
            "erasure-sweep 0.1.0."
        )
        assert "32 positions of each" in measured_line({}, {"config": {"positions": 32}})
        assert measured_line({}, {}).startswith("Measured on — prompts")

    def test_warnings_only_where_protocols_differ(self) -> None:
        same = {"n_prompts": 8, "n_tokens": 96, "corpus_fingerprint": "a", "state": "FINISHED"}
        assert protocol_warnings([same, same], ["one", "two"]) == []
        other = {**same, "n_prompts": 4, "corpus_fingerprint": "b", "state": "FAILED", "reason": "out of memory"}
        warnings = protocol_warnings([same, other], ["one", "two"])
        assert warnings[0] == "two was not measured in full (failed: out of memory)."
        assert warnings[1] == "Models were measured on different numbers of prompts: one 8, two 4."
        assert "Models did not read the same tokens" in warnings[2]
        assert len(warnings) == 3

    def test_plotly_sees_no_markup_and_no_placeholders(self) -> None:
        assert text("<b>x</b> & %{y}") == "&lt;b&gt;x&lt;/b&gt; &amp; %\u200b{y}"

    def test_robust_range_shows_the_core_and_cuts_the_wings(self) -> None:
        low, high = robust_range(np.array([0.0, 1.0, np.nan]), np.array([-80.0, 1.2]))
        assert low == pytest.approx(-0.5 - 0.04 * 1.7)
        assert high == pytest.approx(1.2 + 0.04 * 1.7)
        assert robust_range(np.array([99.0]), np.array([99.0]), limit=4.0)[1] == pytest.approx(4 + 0.04 * 4)
        assert robust_range(np.array([]), np.array([]))[0] < 0
