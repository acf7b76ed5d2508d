"""The tables of a comparison: the strongest writers of each model, and how each model was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from erasure_sweep.dashboards.comparison.protocols import FIELDS, differing, protocols, protocols_table
from erasure_sweep.dashboards.comparison.strongest_writers import strongest_table, strongest_writers
from erasure_sweep.dashboards.html.links import Home
from erasure_sweep.dashboards.html.parts import SortedCell
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_manifest, fake_model, fake_sweep, model_tables, point
from tests.support.fakes.views import comparison_view
from tests.support.fakes.written_pages import NASTY, broken


def ranked(name: str, shares: dict[str, float]) -> ModelTables:
    one = point(name, shares)
    order = pd.Series(shares).rank(ascending=False).to_numpy()
    one.tables["writers"] = one.tables["writers"].assign(
        rank=order, diluted=0.125, written_centred=1.5, remaining_centred=0.5, net_slope=-0.75, net_r=-0.5, erasers=""
    )
    return one


def full() -> ModelTables:
    one = ranked("m", {"L0H0": 0.5})
    one.tables["writers"] = one.tables["writers"].assign(erasers="L1H0+L1H1", erased_centred=0.25)
    beta = {"L1H0": -0.1, "L1H1": -0.4, "attn1": -0.5}
    one.tables["v_composition"] = pd.DataFrame({"writer": "L0H0", "eraser": list(beta), "beta": beta.values()})
    trust = {"writer": ["L0H0"], "trust": ["reversed"], "share": [-0.5], "share_low": [-0.625], "share_high": [-0.375]}
    one.tables["dla_trust"] = pd.DataFrame(trust)
    states = {"resid_pre0": 7.0, "resid_mid0": 1.25, "resid_post0": 0.75, "resid_mid1": 0.5}
    one.tables["residual_projection"] = pd.DataFrame(
        {"writer": "L0H0", "state": list(states), "median": states.values()}
    )
    return one


class TestStrongest:
    def test_the_most_erased_of_all_models_come_first(self) -> None:
        models = [
            ranked("a", {"L0H0": 0.2, "L0H1": 0.7, "embed": -0.1, "L2H0": np.nan}),
            model_tables({"name": "old"}, {"writers": pd.DataFrame({"writer": ["embed"], "opposed": [-0.5]})}),
            ranked("b", {f"L0H{head}": 0.9 - head / 10 for head in range(8)}),
        ]
        found = [(one.model, one.writer) for one in strongest_writers(models)]
        assert found == [
            *(("b", "L0H0"), ("b", "L0H1"), ("a", "L0H1"), ("b", "L0H2"), ("b", "L0H3"), ("b", "L0H4")),
            *(("a", "L0H0"), ("old", "embed")),
        ]
        assert len(strongest_writers(models, per_model=1)) == 3

    def test_a_row_by_hand(self) -> None:
        (one,) = strongest_writers([full()])
        assert (one.erasers, one.trust) == (["L1H1", "L1H0"], "reversed")
        # before it writes, a ratio is about its absence
        np.testing.assert_array_equal(one.presence, [np.nan, 1.25, 0.75, 0.5])
        table = strongest_table(comparison_view([full()], {"m": Home(page="m/index.html")}))
        headings = [column.heading for column in table.columns]
        row = dict(zip(headings, table.rows[0], strict=True))
        numbers = {
            "erased, means kept": 0.5,
            "erased, means removed": 0.25,
            "diluted": 0.125,
            "written": 1.5,
            "remaining": 0.5,
        }
        assert {key: row[key] for key in numbers} == numbers
        assert (row["left by later heads (slope)"], row["r of that"], row["erasers"]) == (
            -0.75,
            -0.5,
            "L1H1, L1H0",
        )
        assert row["share that arrives"] == SortedCell(Markup("−0.50 [−0.62, −0.38]"), -0.5)
        assert row["writer"] == '<a href="m/index.html#writer=L0H0">L0H0</a>'
        assert row["model"] == '<a href="m/index.html">m</a>'
        assert "reversed" in row["its DLA"]
        assert isinstance(row["presence"], SortedCell)
        assert row["presence"].value == 0.5
        assert "median 1.25 where it writes, 0.50 at the end" in row["presence"].markup

    def test_without_homes_names_are_text(self) -> None:
        row = strongest_table(comparison_view([full()])).rows[0]
        assert row[:2] == ["L0H0", "m"]

    @pytest.mark.parametrize("case", list(broken(fake_model("x", 1, 1, n_tokens=4))))
    def test_tables_that_hold_less(self, case: str) -> None:
        whole = fake_model("toy", 2, 2, n_tokens=12, d_model=16, verify=True)
        table = strongest_table(comparison_view([model_tables(whole.about, broken(whole)[case])]))
        assert bool(table.rows) == (case in ("only writers", "all null", "infinite"))

    def test_names_are_escaped(self) -> None:
        model = ranked(NASTY, {NASTY: 0.5})
        row = strongest_table(comparison_view([model], {NASTY: Home(page="p.html")})).rows[0]
        assert "<img" not in "".join(str(cell) for cell in row[:2])


def measured(name: str, **about: object) -> ModelTables:
    return model_tables({"name": name, **about}, {})


class TestProtocols:
    def test_a_model_says_it_itself_or_its_sweep_does(self) -> None:
        config = {"corpus": "stdlib", "prompts": 8, "seq_len": 1024, "positions": "all", "tau": 0.05, "stage": "all"}
        config |= {"first_position": False, "pack": False}
        sweep = fake_sweep(version="1.2", git_commit="0123456789abcdef", device_type="cpu", config=config)
        one, two = protocols(
            [
                measured("a", n_prompts=4, n_tokens=4096, stages=["scan", "verify"]),
                measured("b", version="1.3", corpus_name="pile", seed=0),
            ],
            sweep,
        )
        assert one.values == {
            **{"corpus_name": "stdlib", "corpus_fingerprint": None, "n_prompts": "4", "seq_len": "1,024"},
            **{
                "pack": "no",
                "positions": "all",
                "first_position": "left out",
                "n_tokens": "4,096",
                "seed": None,
                "dtype": None,
                "device_type": "cpu",
                "ln": None,
            },
            **{"stages": "scan, verify", "tau": "0.05", "version": "1.2", "git_commit": "0123456789"},
            **{"schema_version": None},
        }
        assert (two.values["version"], two.values["corpus_name"], two.values["seed"]) == ("1.3", "pile", "0")
        assert (two.values["n_prompts"], two.values["stages"]) == ("8", "all")

    def test_columns_that_differ_are_marked_and_what_few_have_is_bold(self) -> None:
        models = [measured("a", seed=0, dtype="float32"), measured("b", seed=0), measured("c", seed=7, dtype="float32")]
        table = protocols_table(comparison_view(models))
        assert [column.heading for column in table.columns] == ["model", "seed (differs)", "precision"]
        assert table.rows == [["a", "0", "float32"], ["b", "0", None], ["c", "<strong>7</strong>", "float32"]]
        assert table.caption.startswith("Models differ in seed: ")
        assert "Not known of every model: precision." in table.caption

    def test_models_measured_alike(self) -> None:
        models = [fake_model(name, 1, 1, n_tokens=4) for name in ("a", "b")]
        sweep = fake_manifest(models)
        assert differing(protocols(models, sweep)) == []
        table = protocols_table(comparison_view(models, {}, sweep))
        assert "measured alike in everything that is listed" in table.caption
        # what is the same in all is said once, but for what was read
        assert f"; seed {sweep.config.seed}; precision float32;" in table.caption
        assert [column.heading for column in table.columns] == ["model", "corpus", "prompts", "positions", "version"]
        assert "seed" in [column.heading for column in protocols_table(comparison_view(models[:1], {}, sweep)).columns]
        assert len({field.key for field in FIELDS}) == len(FIELDS)

    def test_runs_and_pages_are_linked(self) -> None:
        homes = {"a": Home(page="a/index.html", run="http://host/#/experiments/1/runs/2")}
        table = protocols_table(comparison_view([measured("a", seed=0), measured("b", seed=0)], homes))
        assert [row[0] for row in table.rows] == ['<a href="a/index.html">a</a>', "b"]
        assert [row[-1] for row in table.rows] == ['<a href="http://host/#/experiments/1/runs/2">open</a>', None]
        assert "run" not in [column.heading for column in protocols_table(comparison_view([measured("a")])).columns]

    def test_values_are_escaped(self) -> None:
        table = protocols_table(
            comparison_view([measured("a", version="1"), measured("b", version="1"), measured("c", version=NASTY)])
        )
        assert "<img" not in table.rows[2][1]
