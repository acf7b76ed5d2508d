"""Prompts as coloured text, against tables of invented models and values worked out by hand."""

from __future__ import annotations

import html
import itertools
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.html.parts import Prose
from erasure_sweep.dashboards.model.verify.adversarial.token_text import (
    READINGS,
    TokenPrompt,
    strongest_tokens,
    token_colour_limit,
    token_prompts,
    token_text,
)
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.prompts import PROMPT_TOKENS
from tests.support.fakes.tables import fake_model, model_tables


@pytest.fixture(scope="module")
def model() -> ModelTables:
    return fake_model("m", 3, 3, seed=3, n_tokens=96, d_model=40, verify=True)


def writers_of(model: ModelTables) -> list[str]:
    return list(dict.fromkeys(model.tables["adversarial_tokens"]["writer"]))


class Reader(HTMLParser):
    """What a browser would make of a body: the text and attributes of each token, and every element's name."""

    def __init__(self, body: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.tokens: list[tuple[str, dict[str, str | None]]] = []
        self._inside = False
        self.feed(body)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self._inside = tag == "bdi"
        if self._inside:
            self.tokens.append(("", dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            shown, attributes = self.tokens[-1]
            self.tokens[-1] = (shown + data, attributes)

    @property
    def texts(self) -> list[str]:
        return [shown for shown, _ in self.tokens]


def one_prompt(dla: list[float], net: list[float], tokens: list[Any] | None = None, **more: Any) -> ModelTables:
    """A writer's one prompt; the places of ``adversarial`` say that it is not tested otherwise."""
    n = len(dla)
    table = pd.DataFrame(
        {
            **{"writer": "L0H1", "source": "found", "prompt": 5, "place": 20 + n, "position": 21 + np.arange(n)},
            **{"token_id": 7 + np.arange(n), "token": tokens or list("abcdefghij"[:n]), "dla": dla, "net_dla": net},
        }
    ).assign(**more)
    return model_tables({}, {"adversarial_tokens": table})


def only_body(model: ModelTables, reading: int = 0) -> str:
    return token_text(model, ["L0H1"]).bodies[f"0.0.{reading}"]


def said(body: str) -> str:
    """A body's text without its elements."""
    return re.sub("<[^>]+>", "", body)


class TestPrompts:
    def test_found_ones_are_hardest_first(self, model: ModelTables) -> None:
        writer = writers_of(model)[0]
        table, tested = model.tables["adversarial_tokens"], model.tables["adversarial"]
        shown = token_prompts(model, writer, "found")
        keys = {"writer": writer, "half": "found", "role": "writer", "inputs": "last"}
        for key, value in keys.items():
            tested = tested[tested[key] == value]
        tested = tested.sort_values("rank")
        assert [one.prompt for one in shown] == list(tested["prompt"])
        assert sorted(one.prompt for one in shown) != [one.prompt for one in shown]
        assert [one.change for one in shown] == list(tested["change"])
        for one in shown:
            rows = table.query(f"writer == '{writer}' and half == 'found' and prompt == {one.prompt}")
            assert list(one.values["dla"]) == list(rows["dla"])
            assert list(one.values["net_dla"]) == list(rows["net_dla"])
            assert list(one.position) == list(range(one.place + 1))

    def test_given_ones_are_as_they_were_given(self, model: ModelTables) -> None:
        assert [one.prompt for one in token_prompts(model, writers_of(model)[0], "given")] == [0, 1, 2, 3]

    def test_tokens_are_by_position_whatever_the_order_of_rows(self) -> None:
        table = one_prompt([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]).tables["adversarial_tokens"]
        mixed = model_tables({}, {"adversarial_tokens": table.iloc[[2, 0, 1]]})
        (shown,) = token_prompts(mixed, "L0H1", "found")
        assert shown.tokens == ["a", "b", "c"] and list(shown.values["dla"]) == [1.0, 2.0, 3.0]

    def test_without_what_was_tested_there_they_stand_as_they_come(self, model: ModelTables) -> None:
        writer = writers_of(model)[0]
        alone = model_tables({}, {"adversarial_tokens": model.tables["adversarial_tokens"]})
        shown = token_prompts(alone, writer, "found")
        assert [one.prompt for one in shown] == [0, 1, 2, 3, 4, 5]
        assert {one.top for one in shown} == {""}
        assert "Next," not in said(token_text(alone, [writer]).bodies["0.1.0"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, -0.4, 0.38], 0.4),
        ([2.1], 3.0),
        ([1.0], 1.0),
        ([-7.5], 10.0),
        ([0.012], 0.015),
        ([0.0], 1.0),
        ([np.nan], 1.0),
    ],
)
def test_colours_end_at_a_round_number(values: list[float], expected: float) -> None:
    prompt = TokenPrompt(0, 0, np.arange(1.0), [], dict.fromkeys(READINGS, np.array(values)), "", "", 0.0, 0.0, "")
    assert token_colour_limit([prompt]) == pytest.approx(expected)
    assert token_colour_limit([]) == 1.0


def test_wild_values_do_not_stretch_the_colours() -> None:
    values = np.append(np.full(99, 0.9), 60.0)
    prompt = TokenPrompt(0, 0, np.arange(1.0), [], {"dla": values, "net_dla": values}, "", "", 0.0, 0.0, "")
    assert token_colour_limit([prompt]) == 1.0


def test_the_strongest_are_farthest_from_zero() -> None:
    assert strongest_tokens(np.array([0.1, -3.0, np.nan, 2.0, 0.0, -0.2])) == [1, 3, 5]
    assert strongest_tokens(np.array([0.0, 0.0, 1.0])) == [2]


class TestText:
    def test_each_token_has_its_colour_and_number(self) -> None:
        model = one_prompt([2.0, -1.0, 0.5, 0.0, np.nan], [1.0, 0.0, 0.0, -2.0, 0.0])
        dla, net = Reader(only_body(model)), Reader(only_body(model, 1))
        assert dla.texts == net.texts == ["a", "b", "c", "d", "e"]
        about = [attributes for _, attributes in dla.tokens]
        assert [one.get("class") for one in about] == ["plus marked", "minus marked", "plus marked", "plus", None]
        assert [one.get("style") for one in about] == ["--a:0.6", "--a:0.3", "--a:0.15", "--a:0", None]
        assert [one["title"] for one in about] == [
            *("+2.00 logits at position 21", "−1.00 logits at position 22", "+0.50 logits at position 23"),
            *("0.00 logits at position 24", "not measured at position 25"),
        ]
        assert [one["tabindex"] for one in about] == ["0", "0", "0", "-1", "-1"]
        assert [one.get("class") for _, one in net.tokens] == ["plus marked", "plus", "plus", "minus marked", "plus"]

    def test_the_strongest_are_listed_in_words(self) -> None:
        body = said(only_body(one_prompt([2.0, -1.0, 0.5, 3.0], [1.0, 0.0, 0.0, -2.0])))
        assert "Strongest: ¹ d +3.00 at 24, ² a +2.00 at 21 and ³ b −1.00 at 22." in body
        assert "No token of it has any." in said(only_body(one_prompt([0.0], [0.0])))

    def test_ends_are_said_of_all_prompts_and_of_each(self, model: ModelTables) -> None:
        body = said(only_body(one_prompt([2.0, 3.0], [1.0, -0.25], total=[0.0, 0.5])))
        assert (
            "At the end of this prompt the DLA of L0H1 is +3.00 logits, −0.25 net of what later heads take back,"
            in body
        )
        assert "and +0.50 of it arrives." in body
        assert (
            "Prompt 5, up to position 22" in body and "At its end: DLA of L0H1 +3.00, net −0.25, +0.50 arrives." in body
        )
        writer = writers_of(model)[0]
        body = said(token_text(model, [writer]).bodies["0.1.0"])
        dla = np.median([one.values["dla"][-1] for one in token_prompts(model, writer, "shown")])
        assert f"At the ends of these 6 prompts the DLA of {writer} is +{dla:.2f} logits at the median" in body
        first = token_prompts(model, writer, "shown")[0]
        assert f"with other prompts' last inputs it moves by {100 * first.change:.0f}\u00a0%" in body.replace(
            "&#39;", "'"
        )

    def test_a_cut_prompt_begins_with_dots(self) -> None:
        assert '<p class="tokens">… <bdi' in only_body(one_prompt([1.0], [1.0]))
        whole = one_prompt([1.0], [1.0], position=0, place=0)
        assert '<p class="tokens"><bdi' in only_body(whole)

    def test_tokens_full_of_markup_are_text(self) -> None:
        nasty = [
            "</bdi><script>alert(1)</script>",
            '" onfocus="x()',
            "&lt;",
            " שלום",
            "\u202eabc",
            "🙂",
            "\n\t",
            "<!--",
        ]
        read = Reader(only_body(one_prompt([1.0] * 8, [1.0] * 8, nasty)))
        assert read.texts == [*nasty[:6], "↵⇥", "<!--"]
        assert set(read.names) == {"p", "span", "section", "h3", "bdi", "sup", "code"}
        assert all(set(about) == {"tabindex", "class", "style", "title"} for _, about in read.tokens)
        hidden = one_prompt([1.0], [1.0], writer="<b>")
        assert "<b>" not in "".join([*token_text(hidden, ["<b>"]).bodies.values()])

    def test_tokens_without_text_show_their_number(self, model: ModelTables) -> None:
        assert Reader(only_body(one_prompt([1.0, 1.0], [1.0, 1.0], [None, ""]))).texts == ["#7 ", "#8 "]
        without = fake_model("one", 2, 2, seed=2, n_tokens=24, d_model=16, verify=True, tokenizer=False)
        texts = Reader(token_text(without, writers_of(without)).bodies["0.0.0"]).texts
        assert texts and all(re.fullmatch(r"#\d+ ", shown) for shown in texts)

    def test_every_choice_has_its_text(self, model: ModelTables) -> None:
        writers = writers_of(model)
        part = token_text(model, writers)
        assert [control.label for control in part.controls] == ["Writer (verified only)", "Prompts", "Colours"]
        options = [range(len(control.options)) for control in part.controls]
        assert list(part.bodies) == [".".join(map(str, key)) for key in itertools.product(*options)]
        assert list(part.controls[2].options) == list(READINGS.values())
        shown = {shown for body in part.bodies.values() for shown in Reader(body).texts}
        words = {word.replace("\n", "↵").replace("\t", "⇥") for word in PROMPT_TOKENS if word}
        assert words < shown

    def test_a_source_without_prompts_says_so(self, model: ModelTables) -> None:
        table = model.tables["adversarial_tokens"]
        first, second = writers_of(model)[:2]
        rest = table[(table["source"] == "found") | (table["writer"] == second)]
        part = token_text(model_tables({}, {"adversarial_tokens": rest}), [first, second])
        assert said(part.bodies["0.0.0"]) == f"No such prompts were tested of {first}."
        assert part.controls[1].chosen == 1 and len(Reader(part.bodies["1.0.0"]).tokens) > 0

    def test_of_many_prompts_the_first_are_shown(self) -> None:
        table = one_prompt([1.0, 2.0], [0.0, 0.0]).tables["adversarial_tokens"]
        many = pd.concat([table.assign(prompt=prompt) for prompt in range(11)])
        part = token_text(model_tables({}, {"adversarial_tokens": many}), ["L0H1"])
        assert part.bodies["0.0.0"].count("<h3>") == 8
        assert "At the ends of these 11 prompts" in part.bodies["0.0.0"]
        assert "The first 8 are shown; all are in the table." in part.bodies["0.0.0"]

    def test_of_many_writers_each_has_fewer(self) -> None:
        table = one_prompt([1.0, 2.0], [0.0, 0.0]).tables["adversarial_tokens"]
        names = [f"L0H{head}" for head in range(40)]
        places = itertools.product(names, range(4))
        many = pd.concat([table.assign(writer=writer, prompt=prompt) for writer, prompt in places])
        part = token_text(model_tables({}, {"adversarial_tokens": many}), names)
        assert {body.count("<h3>") for body in part.bodies.values()} == {2}

    @pytest.mark.parametrize("lost", [None, "writer rows", "position", "dla"])
    def test_what_is_not_there_is_said(self, lost: str | None) -> None:
        table = one_prompt([1.0], [1.0]).tables["adversarial_tokens"]
        tables = {} if lost is None else {"adversarial_tokens": table.drop(columns=lost, errors="ignore")}
        part = token_text(model_tables({}, tables), ["L0H1"] if lost != "writer rows" else ["L0H0"])
        assert isinstance(part, Prose) and "adversarial_tokens is missing" in part.empty
        if lost == "dla":
            assert "not measured at position 21" in part.bodies["0.0.0"]
        else:
            assert not part.bodies and not part.controls


class TestAudit:
    def test_a_prompt_has_the_command_that_audits_it(self) -> None:
        model = one_prompt([1.0, 0.5], [0.0, 0.0], tokens=[" it's", "\n a"], position=[0, 1])
        assert "--prompt" in said(only_body(model)) and "it&#39;s" not in said(only_body(model)).split("--prompt")[1]
        both = one_prompt([1.0, 0.5], [0.0, 0.0], tokens=[" it's", "\n a"])
        command = html.unescape(said(only_body(both))).split("erasure-sweep audit ")[1].splitlines()[0]
        assert command == "'' --prompt $' it\\'s\\n a'"

    @pytest.mark.parametrize("token", [None, "\x1b[31m", "\ufffd"])
    def test_text_that_cannot_be_typed_has_none(self, token: str | None) -> None:
        assert "--prompt" not in said(only_body(one_prompt([1.0], [0.0], tokens=[token])))
