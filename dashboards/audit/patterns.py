"""Where the heads that matter look, over the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from erasure_sweep.dashboards.audit.view import AUDIT, AuditView, Pattern
from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.html.parts import Card, Control
from erasure_sweep.dashboards.plots.theme import lone_figure, single, text

MOST_PROMPTS = 4
MOST_TOKENS = 200
"""A square of more cells would be the most of the page."""


def pattern_figure(pattern: Pattern, head: str) -> go.Figure:
    """A head's attention: what each token, from top to bottom, looks at."""
    labels = [f"{at}: {text(repr(token))}" for at, token in enumerate(pattern.tokens)]
    n = len(labels)
    weights = np.where(np.tri(n, dtype=bool), pattern.weights, np.nan)
    trace = go.Heatmap(
        z=single(weights),
        x=list(range(n)),
        y=list(range(n)),
        customdata=[[f"{query} looks at {key}" for key in labels] for query in labels],
        hovertemplate="%{customdata}: %{z:.2f}<extra></extra>",
        colorscale=[[0, "#f7f7f7"], [1, "#2166ac"]],
        zmin=0,
        zmax=1,
        colorbar={"title": {"text": "weight"}, "thickness": 12},
    )
    axis = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": labels, "showgrid": False}
    if n > 40:
        axis = {"showgrid": False}
    at = int(np.argmax(pattern.weights[-1]))
    return lone_figure(
        [trace],
        x_title="token that is looked at",
        y_title="token that looks",
        height=max(360, min(720, 160 + 20 * n)),
        sentence=f"From the last token {head} looks most at {labels[at]} ({pattern.weights[-1, at]:.2f}).",
        xaxis={**axis, "tickangle": -60},
        yaxis={**axis, "autorange": "reversed"},
    )


def patterns_figure(patterns: Sequence[tuple[str, Pattern]]) -> go.Figure:
    """Several heads with a menu to choose one, for notebooks."""
    figures = [pattern_figure(pattern, head) for head, pattern in patterns]
    whole = figures[0]
    for other in figures[1:]:
        whole.add_trace(other.data[0])
    for at, trace in enumerate(whole.data):
        trace.visible = at == 0
    if len(figures) > 1:
        buttons = [
            {"label": head, "method": "restyle", "args": [{"visible": [at == other for other in range(len(figures))]}]}
            for at, (head, _) in enumerate(patterns)
        ]
        whole.update_layout(
            updatemenus=[{"buttons": buttons, "x": 0, "y": 1.12, "xanchor": "left", "yanchor": "bottom"}]
        )
    return whole


@card(AUDIT, "patterns", order=50)
def patterns_card(view: AuditView) -> Card:
    """One figure a head and prompt."""
    n_prompts = min(MOST_PROMPTS, view.n_prompts)
    found = {}
    for at, head in enumerate(view.heads):
        for prompt in range(n_prompts):
            pattern = view.pattern(head, prompt)
            if len(pattern.tokens) <= MOST_TOKENS:
                found[f"{at}.{prompt}" if n_prompts > 1 else str(at)] = pattern_figure(pattern, head)
    controls = [Control("Head", [view.named(head) for head in view.heads])]
    if n_prompts > 1:
        controls.append(Control("Prompt", [str(prompt + 1) for prompt in range(n_prompts)]))
    return Card(
        "Where the heads look",
        "Attention of the heads with the largest bars or effects. Rows are the tokens that look, columns what they look at; "
        "the last row is the place that is audited.",
        found,
        controls=controls if found else (),
        empty="No head matters here, or the prompt is too long to draw.",
    )
