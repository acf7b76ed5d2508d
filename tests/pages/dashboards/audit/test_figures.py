"""What an audit shows: its bars, waterfalls, points, curves and patterns, and the page of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erasure_sweep.dashboards.audit.bars import bars_figure, bars_sentence
from erasure_sweep.dashboards.audit.joint import joint_figure
from erasure_sweep.dashboards.audit.lens import lens_figure
from erasure_sweep.dashboards.audit.numbers import strongest_answer
from erasure_sweep.dashboards.audit.page import audit_page, write_audit_page
from erasure_sweep.dashboards.audit.patterns import pattern_figure, patterns_figure
from erasure_sweep.dashboards.audit.scatter import scatter_figure
from erasure_sweep.dashboards.audit.view import AuditView, Pattern
from erasure_sweep.dashboards.audit.waterfall import waterfall_figure

HOSTILE = "<script>alert(1)</script>%{x}"


def component(
    name: str, dla: float, direct: float, effect: float, word: str | None, settled: bool = True
) -> dict[str, object]:
    return {
        **{"component": name, "dla": dla, "kept": dla - direct, "direct": direct, "effect": effect, "net": direct},
        **{"effect_low": effect - 0.1, "effect_high": effect + 0.1, "word": word, "settled": settled if word else None},
    }


COMPONENTS = [
    component("embed", 0.1, 0.05, 0.9, "unrelated"),
    component("L0H0", 2.0, 1.8, 0.1, "cancelled"),
    component("L0H1", -1.0, -0.9, -0.95, "holds"),
    component("b_O0", 0.3, np.nan, np.nan, None),
    component("MLP0", 0.5, 0.4, 0.8, "amplified", settled=False),
    component("L1H0", 0.001, 0.001, 0.001, "holds"),
]
MEDIATION = [
    ("L0H0", "MLP0", -0.2),
    ("L0H0", "L1H0", -1.4),
    ("L0H0", "final_norm", -0.1),
    ("MLP0", "L1H0", 0.4),
    ("MLP0", "final_norm", 0.0),
]


def pattern(head: str, prompt: int) -> Pattern:
    weights = np.tril(np.ones((4, 4)))
    return Pattern(["<bos>", " a", HOSTILE, " c"], weights / weights.sum(axis=1, keepdims=True))


def view_of(**changes: object) -> AuditView:
    values: dict[str, object] = {
        **{"model": "m", "baseline": "mean", "n_prompts": 3, "n_donors": 1, "question": f"logit of 'a' − '{HOSTILE}'"},
        "prompts": [HOSTILE, "b", "c"],
        "components": pd.DataFrame(COMPONENTS),
        "mediation": pd.DataFrame(MEDIATION, columns=["component", "mediator", "mediated"]),
        "states": pd.DataFrame(
            {
                "state": ["resid_pre0", "resid_post0"],
                **{name: [0.5, 2.0] for name in ("accumulated", "lens")},
                **{f"{name}_{end}": [np.nan, np.nan] for name in ("accumulated", "lens") for end in ("low", "high")},
                "predicted": [None, " x"],
            }
        ),
        **{"logit_difference": (1.9, 1.5, 2.3), "pattern": pattern, "known": {"L0H0": "On docs 80% of it is erased"}},
    }
    return AuditView(**values | changes)  # type: ignore[arg-type]


def test_bars_stand_by_length_and_small_ones_together() -> None:
    figure = bars_figure(view_of())
    assert list(figure.data[0].y) == [
        *("L0H0 · cancelled", "L0H1 · holds", "MLP0 · amplified?", "b_O0", "1 others, summed"),
        *("<i>short bars, large effects:</i>", "embed · through others"),
    ]
    assert list(figure.data[0].x) == pytest.approx([2.0, -1.0, 0.5, 0.3, 0.001, np.nan, 0.1], nan_ok=True)


def test_the_part_that_is_taken_is_hatched_where_it_does_not_arrive() -> None:
    wide, holds, doubtful, dots = bars_figure(view_of()).data
    assert holds.marker.pattern.shape is None and doubtful.marker.pattern.shape == "/"
    taken = dict(zip(holds.y, holds.x, strict=True)), dict(zip(doubtful.y, doubtful.x, strict=True))
    assert taken[0]["L0H1 · holds"] == -0.9 and taken[1]["L0H1 · holds"] is None
    assert taken[1]["L0H0 · cancelled"] == 1.8 and taken[0]["L0H0 · cancelled"] is None
    assert dict(zip(dots.y, dots.x, strict=True))["L0H0 · cancelled"] == 0.1
    np.testing.assert_allclose(dots.error_x.array[:3], 0.1)
    assert "left by the ablation +0.20, taken by it +1.80" in wide.customdata[0]


def test_the_sentence_names_who_holds() -> None:
    said = bars_sentence(view_of())
    assert said.startswith("Of 3 bars, what ablating takes arrives as DLA says in 1")
    assert "cancelled: L0H0" in said and "embed act through others" in said and "not settled (1 of 3)" in said


def test_where_much_of_a_bar_is_left_the_word_is_of_the_rest() -> None:
    rows = [component("L0H0", 0.84, 0.3, 0.29, "holds"), component("MLP0", 0.13, -0.64, -0.71, "holds")]
    view = view_of(components=pd.DataFrame(rows))
    assert [view.named(name) for name in view.shown] == ["L0H0 · holds (part)", "MLP0 · holds (part)"]
    assert "Of L0H0 and MLP0 the ablation leaves a third of the bar or more" in bars_sentence(view)
    nothing = view_of(components=pd.DataFrame([component("embed", 0.0, 0.0, 0.0, None)]))
    assert bars_sentence(nothing) == "No component has a bar here that ablating changes."


def test_the_waterfall_adds_up() -> None:
    (trace,) = waterfall_figure(view_of(), "L0H0").data
    assert list(trace.x) == ["DLA", "left by the ablation", "MLP0", "L1H0", "final norm", "what arrives"]
    assert sum(trace.y[:-1]) == pytest.approx(trace.y[-1])
    said = waterfall_figure(view_of(), "L0H0").layout.meta["sentence"]
    assert "L1H0 answers it most (−1.40)" in said and said.endswith("On docs 80% of it is erased.")
    assert strongest_answer(view_of(), "L0H0") == "L1H0 −1.40"
    assert strongest_answer(view_of(), "L1H0") is None


def test_many_mediators_are_folded() -> None:
    rows = [("L0H0", f"L{layer}H0", -1.7 / 20) for layer in range(1, 21)]
    mediation = pd.DataFrame(rows, columns=["component", "mediator", "mediated"])
    (trace,) = waterfall_figure(view_of(mediation=mediation), "L0H0").data
    assert trace.x[-2] == "12 others" and sum(trace.y[:-1]) == pytest.approx(trace.y[-1])


def test_points_have_their_names_and_a_diagonal() -> None:
    line, *points = scatter_figure(view_of()).data
    assert line.x == line.y
    assert {text for trace in points for text in trace.text if text} == {"embed", "L0H0", "L0H1", "MLP0", "L1H0"}
    assert (
        scatter_figure(view_of()).layout.meta["sentence"]
        == "1 component acts through others, with next to no bar: embed."
    )


def test_curves() -> None:
    figure = lens_figure(view_of())
    assert [trace.name.split(",")[0] for trace in figure.data] == ["accumulated", "logit lens"]
    assert "largest step, 1.50, is from resid_pre0 to resid_post0" in figure.layout.meta["sentence"]


def test_patterns_show_tokens_and_choose_heads() -> None:
    figure = pattern_figure(pattern("L0H0", 0), "L0H0")
    assert "&lt;script&gt;" in figure.layout.xaxis.ticktext[2]
    assert np.isnan(figure.data[0].z[0][1])
    both = patterns_figure([("L0H0", pattern("L0H0", 0)), ("L0H1", pattern("L0H1", 0))])
    assert [trace.visible for trace in both.data] == [True, False]
    assert [button.label for button in both.layout.updatemenus[0].buttons] == ["L0H0", "L0H1"]


def test_together() -> None:
    table = pd.DataFrame({"component": ["L0H0", "L0H1", "MLP0", "final_norm"], "part": [1.8, -0.9, 0.2, 0.1]})
    (trace,) = joint_figure(["L0H0", "L0H1"], table, (1.2, 1.0, 1.4), -0.85).data
    assert list(trace.x) == ["L0H0", "L0H1", "MLP0", "final norm", "what arrives"]
    assert sum(trace.y[:-1]) == pytest.approx(trace.y[-1])


def test_the_page_holds_everything_and_escapes_what_comes_from_data(tmp_path: Path) -> None:
    view = view_of()
    write_audit_page(view, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page == audit_page(view)
    assert HOSTILE not in page
    for title in (
        "Which bars to believe",
        "Who answers a component",
        "What the bars say",
        "builds up",
        "heads look",
        "Every component",
    ):
        assert title in page
    start = page.index('<script type="application/json" id="bars-figures">')
    content = page[start:].partition(">")[2].partition("</script>")[0]
    assert list(json.loads(content)) == ["0"]


def test_one_prompt_without_donors_says_that_there_is_no_interval() -> None:
    assert "has no interval" in audit_page(view_of(n_prompts=1, prompts=["a"]))
    assert "over 8 donors" in audit_page(view_of(n_prompts=1, n_donors=8, baseline="resample", prompts=["a"]))


def test_nothing_to_show(tmp_path: Path) -> None:
    nothing = pd.DataFrame([component("embed", 0.0, 0.0, 0.0, None)])
    page = audit_page(view_of(components=nothing, mediation=view_of().mediation.iloc[:0]))
    assert "The tables hold nothing to draw here." in page
