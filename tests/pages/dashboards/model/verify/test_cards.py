"""The cards of verified writers, with all tables and with next to none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.html.parts import Card, Part, Prose
from erasure_sweep.dashboards.model.trust import trust_table
from erasure_sweep.dashboards.model.verify.dla_points import EFFECTS
from erasure_sweep.dashboards.model.verify.verdicts import NOT_VERIFIED, verdict_list
from erasure_sweep.dashboards.model.view import MODEL, ModelView
from erasure_sweep.workers.tables import registry
from erasure_sweep.workers.tables.facts.verified import verified_groups
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.tables import fake_model, model_tables
from tests.support.fakes.views import verify_cards


def _content(part: Part) -> Any:
    """What a part shows; nothing where it only says that there is none."""
    if isinstance(part, Prose):
        return part.bodies
    return part.figures if isinstance(part, Card) else part.rows


VERIFY_TABLES = [name for name in registry.tables_of("verify") if name != "dla_correlation"]


def _numbers(table: pd.DataFrame) -> list[str]:
    return [column for column in table if pd.api.types.is_float_dtype(table[column])]


def _keys(table: pd.DataFrame) -> list[str]:
    return [column for column in table if column not in (*_numbers(table), "writer", "eraser")]


LESS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "no rows": lambda table: table.iloc[:0],
    "no columns": lambda table: pd.DataFrame(),
    "null numbers": lambda table: table.assign(**dict.fromkeys(_numbers(table), None)),
    "infinite": lambda table: table.assign(**dict.fromkeys(_numbers(table), np.inf)),
    "null keys": lambda table: table.assign(**dict.fromkeys(_keys(table), None)),
    "only writers": lambda table: table[["writer"]],
    "twice": lambda table: pd.concat([table, table]),
}
"""Ways in which a table can be less, or more, than the contract says."""


class TestCards:
    def test_a_scan_has_one_that_says_so(self) -> None:
        (card,) = verify_cards(fake_model("scan", 2, 2, n_tokens=24, reading=True))
        assert isinstance(card, Card)
        assert (card.figures, card.empty) == ({}, NOT_VERIFIED)

    @pytest.mark.parametrize("fixture", ["model", "block"])
    def test_every_choice_has_its_figure(self, fixture: str, request: pytest.FixtureRequest) -> None:
        for card in verify_cards(request.getfixturevalue(fixture)):
            if isinstance(card, Card):
                choices = itertools.product(*(range(len(control.options)) for control in card.controls))
                assert sorted(card.figures) == sorted(".".join(map(str, choice)) for choice in choices), card.key
                first = ".".join(str(control.chosen) for control in card.controls)
                assert card.figures[first].data, card.key
            else:
                assert _content(card), card.key

    def test_a_choice_without_tokens_says_so(self, model: ModelTables) -> None:
        card = next(card for card in verify_cards(model) if card.key == "dla-points")
        assert isinstance(card, Card)
        # prompts of twelve tokens have no position 32, so there is not even the choice
        assert list(card.controls[1].options) == list(EFFECTS.values())[:-1]
        points = model.tables["dla_points"].query("effect != 'full' or writer == 'L0H1'")
        one = model_tables(model.about, {**model.tables, "dla_points": points})
        card = next(card for card in verify_cards(one) if card.key == "dla-points")
        assert isinstance(card, Card)
        said = [figure.layout.annotations[0].text for figure in card.figures.values() if not figure.data]
        assert set(said) == {"This was not measured."}
        assert len(said) == len({target for target in verified_groups(model.tables) if target.writer != "L0H1"})

    @pytest.mark.parametrize("case", LESS)
    @pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.nightly)])
    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_less_of_half_the_tables_leaves_the_rest(self, block: ModelTables, case: str, first: int) -> None:
        changed = [*VERIFY_TABLES, "dla_correlation"][first::2]
        less = model_tables(block.about, block.tables | {name: LESS[case](block.tables[name]) for name in changed})
        assert len(verify_cards(less)) == 15
        trust_table(ModelView(less))
        verdict_list(less)

    @pytest.mark.parametrize("name", VERIFY_TABLES)
    def test_a_table_alone_is_shown(self, block: ModelTables, name: str) -> None:
        alone = model_tables(block.about, {name: block.tables[name]})
        parts = [*verify_cards(alone), *MODEL.parts(ModelView(alone), {"trust"})]
        shown = [part.key for part in parts if _content(part)]
        keys = {"eraser_group": ["eraser-group"], "nulls": ["eraser-group"], "dla_trust": ["trust"]}
        keys |= {"patched_residual_projection": ["patched-states"], "mlp_erasure": ["mlp-erasers"]}
        keys |= {"adversarial": ["adversarial", "adversarial-prompts"], "dla_mediation": ["mediation"]}
        assert shown == keys.get(name, [name.replace("_", "-")])
        verdict_list(alone)

    def test_figures_are_plain_json(self, block: ModelTables) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        for card in verify_cards(block):
            for figure in card.figures.values() if isinstance(card, Card) else ():
                json.loads(figure.to_json(), parse_constant=refuse)
