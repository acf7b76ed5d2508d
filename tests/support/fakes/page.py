"""A page with one part of every kind, small enough that what a browser shows of it is known by heart."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from erasure_sweep.dashboards.html.parts import Card, Control, HtmlColumn, HtmlTable, Part, Prose, SortedCell
from erasure_sweep.dashboards.html.sparkline import sparkline
from erasure_sweep.dashboards.plots.theme import figure

NASTY = '"<b>x</b>", &amp; %{y}\nعربي 👩‍🔬'
OUTPUTS = Control("Outputs", ["as they are", "means removed"])
SHARES = (0.1, 0.25, 1 / 3, -0.5, 0.75, 2.0, float("nan"), 1.5, 0.0)
KINDS = ("head", "MLP", "head", "head", "MLP", "head", "head", NASTY, "head")


def line(values: list[float], name: str = "kept") -> go.Figure:
    data = [
        go.Scatter(x=["resid_pre0", "resid_post0"], y=np.array(values, dtype=np.float32), name=name),
        go.Scatter(x=["resid_pre0", "resid_post0"], y=[9.0, 9.5], name="hidden", visible="legendonly"),
    ]
    return figure(
        data, x_title="state", y_title="share", height=300, sentence=f"It shows {values[0]}.", showlegend=True
    )


def heat() -> go.Figure:
    values = np.array([[0.1, np.nan], [-0.25, 0.5]], dtype=np.float32)
    cells = go.Heatmap(x=["L1H0", "L2H0"], y=["embed", "a &lt;b&gt;"], z=values, coloraxis="coloraxis")
    return figure([cells], x_title="eraser", y_title="writer", height=300)


def places() -> go.Figure:
    bars = {"type": "data", "symmetric": False, "array": [0.5, 0.25], "arrayminus": [0.25, 0.125]}
    points = go.Scatter(
        x=[0.2, 0.8], y=[1.0, -1.0], hovertext=["<b>L0H1</b><br>more", "MLP0"], error_y=bars, mode="markers"
    )
    # one that lies beyond the axis, drawn on its edge
    meta = {"y": [-50.0], "series": "beyond"}
    edge = go.Scatter(x=[1.1], y=[-1.5], hovertext=["MLP1"], meta=meta, mode="markers")
    axis = {"tickmode": "array", "tickvals": [0, 1], "ticktext": ["toy-2l", "a &lt;b&gt;"]}
    return figure([points, edge], x_title="", y_title="share", height=300, xaxis=axis)


def parts() -> list[Part]:
    rows = [
        [f"L0H{index}", kind, share, SortedCell(sparkline([0, share], 0, 1, f"to {share}"), share), Markup("<i>x</i>")]
        for index, (kind, share) in enumerate(zip(KINDS, SHARES, strict=True))
    ]
    columns = [
        HtmlColumn("writer"),
        HtmlColumn("kind"),
        HtmlColumn("share", "", True),
        HtmlColumn("line"),
        HtmlColumn("mark", filtered=False),
    ]
    return [
        Card(
            "First",
            "c",
            {str(k): line([k, k]) for k in range(3)},
            [Control("Writer", ["the 2 most erased", "L0H1", "MLP0"])],
            key="one",
        ),
        Card(
            *("Second", "c", {f"{w}.{o}": line([w, o]) for w in range(2) for o in range(2)}),
            [Control("Writer ← erasers", ["L0H1 ← L2H0", "embed ← L1H1+L2H0"]), OUTPUTS],
            key="two",
        ),
        Prose(
            *(
                "Words",
                "Said below.",
                {f"{w}.{o}": Markup(f"<p>body {w} {o}</p>") for w in range(2) for o in range(2)},
            ),
            [Control("Writer", ["L0H1", "embed"]), OUTPUTS],
            key="words",
        ),
        Card("Maps", "c", {"0": heat(), "1": heat()}, panels=["toy", NASTY], key="maps"),
        Card("Places", "c", {"0": places()}, min_width=900, tables=("writers",), key="places"),
        Card(
            *("Layers", "c", {str(k): line([k, k]) for k in range(3)}),
            [Control("Layer", ["embeddings", "layer 0", "layer 1"], "range", 2)],
            key="layers",
        ),
        HtmlTable("Numbers", "c", columns, rows, key="table"),
    ]
