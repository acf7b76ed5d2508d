"""What a model's page shows of its verified writers. A run that verified none has one card that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import plotly.graph_objects as go
from markupsafe import Markup

from erasure_sweep.dashboards.html.parts import ARROW, Card, Control, Part
from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.adversarial import (
    INPUTS,
    SOURCES,
    adversarial_places,
    adversarial_table,
    plot_places,
)
from erasure_sweep.dashboards.model.carries import (
    aligned_table,
    carries_table,
    later_use,
    loss_table,
    mlp_erasers,
    plot_later_use,
    plot_mlps,
    plot_profile,
    position_profile,
)
from erasure_sweep.dashboards.model.dla_effects import (
    EFFECTS,
    MOST_POINTS,
    dla_cloud,
    dla_effects_table,
    effects_drawn,
    plot_cloud,
)
from erasure_sweep.dashboards.model.eraser_group import BANDS, eraser_group, patched_states, plot_group, plot_states
from erasure_sweep.dashboards.model.token_text import token_text
from erasure_sweep.dashboards.model.verified import first_head, pair_name, verdict_line
from erasure_sweep.dashboards.model_tables import ModelTables
from erasure_sweep.dashboards.plots.theme import figure
from erasure_sweep.workers.tables.facts.erasure import top_writers
from erasure_sweep.workers.tables.facts.verified import (
    Verdict,
    VerifiedGroup,
    verdicts,
    verified_groups,
    was_verified,
)
from erasure_sweep.workers.tables.values import strings, table_of

MOST_TARGETS = 40
MOST_VERDICTS = 10
ALL_POINTS = 60_000
"""Points of all scatters of a page together: of more targets and effects each has fewer."""
NOT_VERIFIED = "This run did not verify any writer: run the sweep with the stage verify, or all."
_TARGET = "Writer ← erasers (verified only)"
_WRITER = "Writer (verified only)"
_PATCHES = {"group": "the erasers named", "layer": "every head of their layers"}
_BAND_NAMES = ("25 to 75 %", "12.5 to 87.5 %")

Shown = TypeVar("Shown")


def verdict_list(model: ModelTables) -> Markup:
    """The verdicts on the first targets as a list in HTML, for the page's opening; nothing where none was verified."""
    found = verdicts(model.tables)
    if not found:
        return Markup("")
    lines = [verdict_line(verdict) for verdict in found[:MOST_VERDICTS]]
    return render("verdicts.html.j2", verified=_verified_on(found), lines=lines, more=len(found) - MOST_VERDICTS)


def _verified_on(found: Sequence[Verdict]) -> str:
    on_others = all(verdict.held_out for verdict in found)
    where = "on prompts that the scan did not see" if on_others else "on the scan's own prompts"
    return (
        f"Verified {where}, with the erasers named alone (above: all later heads, on the scan's prompts): the pooled "
        "coefficient β of what they write because they read the writer (−1 takes out all of it) and its 95 % interval:"
    )


def verify_cards(model: ModelTables) -> list[Part]:
    """The cards in reading order; one that says so where nothing was verified."""
    if not was_verified(model.tables):
        return [Card("verify", "Verified writers", "", {}, empty=NOT_VERIFIED)]
    targets = verified_groups(model.tables)
    shown = targets[:MOST_TARGETS]
    return [
        _states_card(model, shown),
        _group_card(model, shown),
        _cloud_card(model, shown),
        dla_effects_table(model, targets),
        _adversarial_card(model),
        token_text(model, _writers(model, "adversarial_tokens")),
        adversarial_table(model, _writers(model, "adversarial", most=None)),
        _profile_card(model, shown),
        _mlp_card(model),
        _later_card(model, shown),
        carries_table(model, targets),
        loss_table(model),
        aligned_table(model),
    ]


def nothing(said: str) -> go.Figure:
    """A figure for a choice of which there is nothing, that says so."""
    note = {"text": said, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    hidden = {"visible": False}
    return figure([], x_title="", y_title="", height=160, xaxis=hidden, yaxis=hidden, annotations=[note])


def _target_control(names: Sequence[str]) -> Control:
    """A choice among verified writers with their erasers; the most erased head is shown first."""
    return Control(_TARGET, names, chosen=first_head([name.partition(ARROW)[0] for name in names]))


def _writer_control(names: Sequence[str]) -> Control:
    """A choice among verified writers; the most erased head is shown first."""
    return Control(_WRITER, names, chosen=first_head(names))


def _drawn(shown: Shown | None, plot: Callable[[Shown], go.Figure]) -> go.Figure:
    return nothing("This was not measured.") if shown is None else plot(shown)


def _states_card(model: ModelTables, targets: Sequence[VerifiedGroup]) -> Card:
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    for target in targets:
        views = [patched_states(model, target, patch, ends) for patch in _PATCHES for ends in BANDS]
        if any(view is not None for view in views):
            keys = [f"{len(names)}.{patch}.{ends}" for patch in range(len(_PATCHES)) for ends in range(len(BANDS))]
            figures |= {key: _drawn(view, plot_states) for key, view in zip(keys, views, strict=True)}
            names.append(pair_name(target))
    return Card(
        "patched-states",
        "What is left of a writer when its erasers cannot read it",
        "How much of the writer's output each state of the residual stream holds (1 is all of it, 0 none): as the model "
        "is, and with the writer's output taken out of the value inputs of its erasers, or of every head of their "
        "layers, everything later computed anew. Lines are medians over all measured tokens, bands the quantiles "
        "chosen above. Where the lines part, the erasers are at work. The axis ends at ±4. Offered are verified writers.",
        figures,
        [
            _target_control(names),
            Control("Patched", list(_PATCHES.values())),
            Control("Bands", _BAND_NAMES),
        ]
        if names
        else [],
        empty="This run did not measure it: the table patched_residual_projection is missing or holds none.",
        tables=("patched_residual_projection",),
    )


def _group_card(model: ModelTables, targets: Sequence[VerifiedGroup]) -> Card:
    shown = [group for target in targets if (group := eraser_group(model, target))]
    widest = max((len(group.labels) for group in shown), default=0)
    return Card(
        "eraser-group",
        "Its erasers, one by one and together, beside what chance gives",
        "Projection onto the writer of each eraser and of all of them together (bold): as it is, without reading the "
        "writer, and, of the group, the part that it writes because it reads the writer. Points are medians over all "
        "measured tokens, bars the quartiles (25 to 75 %). Behind the dotted line, hollow, stand the nulls: the group "
        "as it is onto a random direction drawn like the residual stream, onto the writer's output on another "
        "prompt at a shuffled position, and onto the writer's siblings (heads of its layer); and what the group "
        "would be found to read with a random direction (placebo) or a sibling in the writer's stead. Where "
        "siblings are taken out as much, it is not this writer alone that is erased. The star is the writer's output on "
        "another prompt at the same position. It is no null: it shows what position alone explains. The axis ends at ±4.",
        {str(index): plot_group(group) for index, group in enumerate(shown)},
        [_target_control([pair_name(group.target) for group in shown])] if shown else [],
        min_width=min(1000, 40 * (widest + 5)) if shown else 0,
        empty="This run did not measure it: the table eraser_group is missing or holds none.",
        tables=("eraser_group", "nulls"),
    )


def _cloud_card(model: ModelTables, targets: Sequence[VerifiedGroup]) -> Card:
    effects = effects_drawn(model)
    most = min(MOST_POINTS, max(100, ALL_POINTS // max(1, len(targets) * len(effects))))
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    for target in targets:
        views = [dla_cloud(model, target, effect, most) for effect in effects]
        if any(view is not None for view in views):
            figures |= {f"{len(names)}.{at}": _drawn(view, plot_cloud) for at, view in enumerate(views)}
            names.append(pair_name(target))
    return Card(
        "dla-points",
        "Whether the erasers take its logits back",
        "Each point is a token: the writer's direct logit attribution (DLA), and that of its erasers in one of several "
        "meanings, on the difference of the two most likely next tokens (the last meaning: on the logit of the token "
        "that really comes next). On the dashed line the erasers take back all that the writer adds. The best line, "
        f"r and its 95 % interval are over all measured tokens; drawn is a sample of at most {most}.",
        figures,
        [_target_control(names), Control("Erasers' DLA", [EFFECTS[effect] for effect in effects])] if names else [],
        empty="This run did not measure it: the table dla_points is missing or empty.",
        tables=("dla_points", "dla_correlation"),
    )


def _adversarial_card(model: ModelTables) -> Card:
    table = table_of(model.tables, "adversarial")
    sources = [source for source in SOURCES if source in strings(table, "source")]
    inputs = [one for one in INPUTS if one in strings(table, "inputs")]
    names: list[str] = []
    figures: dict[str, go.Figure] = {}
    firsts: list[int] = []
    for writer in _writers(model, "adversarial"):
        views = [adversarial_places(model, writer, source, one) for source in sources for one in inputs]
        if any(view is not None for view in views):
            keys = [f"{len(names)}.{source}.{one}" for source in range(len(sources)) for one in range(len(inputs))]
            figures |= {key: _drawn(view, plot_places) for key, view in zip(keys, views, strict=True)}
            # the first figure of a page is one that shows something
            firsts.append(next(at for at, view in enumerate(views) if view is not None) // len(inputs))
            names.append(writer)
    most = max((len(plot.layout.xaxis.ticktext or ()) for plot in figures.values()), default=0)
    return Card(
        "adversarial",
        "Prompts that fool direct logit attribution",
        "At the end of a prompt, the share that a component's output has in the difference of the two most likely next "
        "tokens, its DLA: with its own input (plain) and with the inputs of other prompts (hatched, the median; lines "
        "from 12.5 to 87.5 %), the final scale kept. Above the writer, below the other head whose DLA is highest "
        "there, whose name stands on its bar. If the bars are alike, the DLA "
        "does not depend on what the component reads, and so says nothing about this prompt. Prompts found in the "
        "corpus are those where the writer's DLA is highest, the smallest change first.",
        figures,
        [
            _writer_control(names),
            Control("Prompts", [SOURCES[source] for source in sources], chosen=firsts[first_head(names)]),
            Control("Inputs replaced", [INPUTS[one] for one in inputs]),
        ]
        if names
        else [],
        min_width=min(1100, 58 * most),
        empty="This run did not measure it: the table adversarial is missing or empty.",
        tables=("adversarial",),
    )


def _profile_card(model: ModelTables, targets: Sequence[VerifiedGroup]) -> Card:
    shown = [profile for target in targets if (profile := position_profile(model, target))]
    return Card(
        "position-profile",
        "Where in the prompt it is erased",
        "The group's projection onto the writer by position in the prompt, as it is and without reading the writer: "
        "medians and quartiles (25 to 75 %) over the tokens of each bin, which doubles in width from one to the next. "
        "Below, how much the writer writes there (root mean square of its norm). The axis ends at ±4.",
        {str(index): plot_profile(profile) for index, profile in enumerate(shown)},
        [_target_control([pair_name(profile.target) for profile in shown])] if shown else [],
        empty="This run did not measure it: the table position_profile is missing or holds none.",
        tables=("position_profile",),
    )


def _mlp_card(model: ModelTables) -> Card:
    shown = [runs for writer in _writers(model, "mlp_erasure") if (runs := mlp_erasers(model, writer))]
    return Card(
        "mlp-erasers",
        "MLPs that erase it",
        "Projection onto the writer of every MLP behind it: as it is, with the writer's output taken out of the MLP's "
        "input, and the difference of the two, which the MLP writes because it reads the writer. Points are medians "
        "over all measured tokens, bars the quartiles (25 to 75 %). The axis ends at ±4.",
        {str(index): plot_mlps(runs) for index, runs in enumerate(shown)},
        [_writer_control([runs.writer for runs in shown])] if shown else [],
        empty="This was not measured, or the model has no MLP behind a verified writer: the table mlp_erasure holds none.",
        tables=("mlp_erasure",),
    )


def _later_card(model: ModelTables, targets: Sequence[VerifiedGroup]) -> Card:
    pairs = [(target, runs) for target in targets if (runs := later_use(model, target))]
    return Card(
        "later-use",
        "What writes along it again",
        "Projection onto the writer of everything that comes behind the attention layer of its last eraser, as it is "
        "and with the erasers patched. Above 0 a component writes what was erased anew. Where it stands lower with "
        "the erasers patched, it does so because they erase: it makes up for them. Points are medians over all "
        "measured tokens, bars the quartiles (25 to 75 %). The axis ends at ±4.",
        {str(index): plot_later_use(runs) for index, (_, runs) in enumerate(pairs)},
        [_target_control([pair_name(target) for target, _ in pairs])] if pairs else [],
        min_width=min(900, 18 * max((len(runs.labels) for _, runs in pairs), default=0)),
        empty="This was not measured, or nothing comes behind the erasers: the table later_use holds none.",
        tables=("later_use",),
    )


def _writers(model: ModelTables, name: str, most: int | None = MOST_TARGETS) -> list[str]:
    """Writers of a table by rank, as many as there are targets with figures."""
    ranks = {writer: rank for rank, writer in enumerate(top_writers(model.tables))}
    found = dict.fromkeys(writer for writer in strings(table_of(model.tables, name), "writer") if writer is not None)
    return sorted(found, key=lambda writer: ranks.get(writer, len(ranks)))[:most]
