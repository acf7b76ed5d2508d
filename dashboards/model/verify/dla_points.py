"""A writer's direct logit attribution and its erasers' (Fig 4): does what the writer seems to do come back negative?

Every point is a token. Perfect erasure is the line of slope −1 through the origin: each logit that the writer adds, the
erasers take back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.model.verified import group_name, pair_name
from erasure_sweep.dashboards.model.verify.choices import drawn, target_control
from erasure_sweep.dashboards.model.view import MODEL, VERIFIED, ModelView, is_verified
from erasure_sweep.dashboards.plots.theme import BLUE, GREY, VERMILLION, figure, shade, single, text
from erasure_sweep.dashboards.wording import amount, interval, number, with_interval
from erasure_sweep.workers.tables.facts.verified import VerifiedGroup, rows_of
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Floats, numeric, strings, table_of

MOST_POINTS = 1000
ALL_POINTS = 60_000
"""Points of all scatters of a page together: of more targets and effects each has fewer."""
EFFECTS = {
    "v_composition": "the part read from the writer",
    "full": "the erasers' whole output",
    "value_input": "writer out of the value input, scale recomputed",
    "layer_input": "writer out of queries, keys and values",
    "downstream": "writer out of everything later",
    "without_pattern": "no attention pattern, next token alone",
}
"""Effects in the order in which they are offered, and what each is."""


class DlaFit(NamedTuple):
    """The best line of one target and effect over all tokens, with intervals from drawing blocks of prompts again."""

    target: VerifiedGroup
    effect: str
    n: int
    r: float
    low: float
    high: float
    spearman: float
    slope: float
    slope_low: float
    slope_high: float
    intercept: float


class DlaCloud(NamedTuple):
    """A sample of tokens, the writer's DLA against the erasers', and the line fitted over all tokens."""

    fit: DlaFit
    x: Floats
    y: Floats
    prompt: Floats
    position: Floats


def dla_fits(model: ModelTables, target: VerifiedGroup) -> list[DlaFit]:
    """What verify measured of the target, effects in the order in which they are offered."""
    table = rows_of(table_of(model.tables, "dla_correlation"), target)
    verified = np.array([stage == "verify" for stage in strings(table, "stage")], dtype=bool)
    table = table[verified]
    names = ("r", "low", "high", "spearman", "slope", "slope_low", "slope_high", "intercept")
    columns = [numeric(table, name) for name in names]
    counts = np.nan_to_num(numeric(table, "n")).astype(int)
    fits = [
        DlaFit(target, effect, int(counts[row]), *(float(column[row]) for column in columns))
        for row, effect in enumerate(strings(table, "effect"))
        if effect is not None
    ]
    order = {effect: place for place, effect in enumerate(EFFECTS)}
    return sorted(fits, key=lambda fit: order.get(fit.effect, len(order)))


def effects_drawn(model: ModelTables) -> list[str]:
    """The effects of which there are points, in the order in which they are offered."""
    found = {effect for effect in strings(table_of(model.tables, "dla_points"), "effect") if effect is not None}
    return [effect for effect in EFFECTS if effect in found]


def dla_cloud(model: ModelTables, target: VerifiedGroup, effect: str, most: int = MOST_POINTS) -> DlaCloud | None:
    """What Fig 4 shows; of more than ``most`` tokens an even sample. None without a token."""
    table = rows_of(table_of(model.tables, "dla_points"), target)
    table = table[np.array([name == effect for name in strings(table, "effect")], dtype=bool)]
    x, y = numeric(table, "writer_dla"), numeric(table, "eraser_dla")
    keep = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not len(keep):
        return None
    if len(keep) > most:
        keep = keep[np.linspace(0, len(keep) - 1, most).round().astype(int)]
    fits = [fit for fit in dla_fits(model, target) if fit.effect == effect]
    nothing = DlaFit(target, effect, 0, *[float("nan")] * 8)
    about = (numeric(table, name)[keep] for name in ("prompt", "position"))
    return DlaCloud(fits[0] if fits else nothing, x[keep], y[keep], *about)


def plot_cloud(shown: DlaCloud) -> go.Figure:
    """Fig 4: tokens, the best line, and the line of perfect erasure."""
    fit = shown.fit
    ends = np.array([min(0.0, shown.x.min()), max(0.0, shown.x.max())])
    group = text(group_name(fit.target))
    data = [
        go.Scatter(
            x=single(shown.x),
            y=single(shown.y),
            customdata=np.stack([shown.prompt, shown.position], axis=1).astype(np.int32),
            name="token",
            mode="markers",
            marker={"color": shade(BLUE, 0.5), "size": 5},
            hovertemplate=(
                "prompt %{customdata[0]}, position %{customdata[1]}<br>writer %{x:.3f}, erasers %{y:.3f}<extra></extra>"
            ),
        ),
        _straight(ends, -ends, "perfect erasure (slope −1)", GREY, "dash"),
    ]
    if np.isfinite([fit.slope, fit.intercept]).all():
        data.append(_straight(ends, fit.intercept + fit.slope * ends, "best fit", VERMILLION, "solid"))
    return figure(
        data,
        x_title=f"DLA of {text(fit.target.writer)} (logits)",
        y_title=f"DLA of {group} (logits)",
        height=480,
        sentence=_cloud_sentence(shown),
        yaxis={"range": _y_range(shown)},
        annotations=_equation(fit),
        showlegend=True,
    )


def _straight(x: Floats, y: Floats, name: str, colour: str, dash: str) -> go.Scatter:
    style = {"mode": "lines", "line": {"color": colour, "dash": dash, "width": 2}, "hoverinfo": "skip"}
    return go.Scatter(x=single(x), y=single(y), name=name, **style)


def _y_range(shown: DlaCloud) -> list[float]:
    """Room for every token and for half of what perfect erasure would take back."""
    reach = [*shown.y, 0.0, *(-0.5 * np.array([shown.x.min(), shown.x.max()]))]
    margin = 0.05 * (max(reach) - min(reach)) or 1.0
    return [float(min(reach) - margin), float(max(reach) + margin)]


def _equation(fit: DlaFit) -> list[dict[str, object]]:
    if not np.isfinite([fit.slope, fit.intercept]).all():
        return []
    box = {"xref": "paper", "yref": "paper", "x": 0.99, "y": 0.99, "xanchor": "right", "yanchor": "top"}
    equation = f"y = {line_words(fit)}<br>r = {number(fit.r)}"
    return [
        {**box, "text": equation, "showarrow": False, "align": "right", "bgcolor": shade(GREY, 0.15), "borderpad": 4}
    ]


def line_words(fit: DlaFit) -> str:
    """The best line as an equation in x: ``−0.61 x + 0.05``."""
    sign = "−" if fit.intercept < 0 else "+"
    return f"{number(fit.slope)} x {sign} {number(abs(fit.intercept))}"


def _cloud_sentence(shown: DlaCloud) -> str:
    fit = shown.fit
    drawn = f"{amount(len(shown.x))} tokens drawn"
    if not np.isfinite(fit.r):
        return f"{drawn}; no line was fitted."
    return (
        f"y = {line_words(fit)}, r = {with_interval(fit.r, fit.low, fit.high)}, over {amount(fit.n)} tokens; {drawn}. "
        f"{_taken_back(fit)}"
    )


def _taken_back(fit: DlaFit) -> str:
    """What the slope says; that it says nothing where it may as well be 0."""
    if fit.slope_low <= 0 <= fit.slope_high:
        ends = interval(fit.slope_low, fit.slope_high)
        return f"No reliable relation (slope {number(fit.slope)}, its interval {ends} includes 0)."
    return f"The erasers {'take back' if fit.slope <= 0 else 'add'} {number(abs(fit.slope))} of each logit."


@card(MODEL, "dla-points", VERIFIED, order=30, when=is_verified)
def points_card(view: ModelView) -> Card:
    targets = view.offered_targets
    effects = effects_drawn(view.model)
    most = min(MOST_POINTS, max(100, ALL_POINTS // max(1, len(targets) * len(effects))))
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    for target in targets:
        views = [dla_cloud(view.model, target, effect, most) for effect in effects]
        if any(view is not None for view in views):
            figures |= {f"{len(names)}.{at}": drawn(view, plot_cloud) for at, view in enumerate(views)}
            names.append(pair_name(target))
    return Card(
        "Whether the erasers take its logits back",
        "Each point is a token: the writer's direct logit attribution (DLA), and that of its erasers in one of several "
        "meanings, on the difference of the two most likely next tokens (the last meaning: on the logit of the token "
        "that really comes next). On the dashed line the erasers take back all that the writer adds. The best line, "
        f"r and its 95 % interval are over all measured tokens; drawn is a sample of at most {most}.",
        figures,
        [target_control(names), Control("Erasers' DLA", [EFFECTS[effect] for effect in effects])] if names else [],
        empty="This run did not measure it: the table dla_points is missing or empty.",
        tables=("dla_points", "dla_correlation"),
    )
