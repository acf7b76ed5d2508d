"""The comparison at a glance: three questions, each answered in a few sentences by the numbers of the page.

Answers are facts of the models on the page, no laws, and say what was not measured. ``findings`` finds what
is said as plain data, this puts it into words; every answer leads to the figure that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.answers.findings import (
    ArisenErasure,
    Distrust,
    DistrustedWriter,
    ErasedWriter,
    arisen,
    distrust,
    halved,
    least_trusted_heads,
    most_erased_writers,
)
from erasure_sweep.dashboards.comparison.answers.growth import (
    GROWS_TO,
    GrownSize,
    Growth,
    growths,
    in_words,
    trend,
    verdict,
)
from erasure_sweep.dashboards.comparison.training import TrainedModel, TrainingPoint, erased_of, trained, when
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import Prose
from erasure_sweep.dashboards.model_names import display_names, final_models, is_one_training
from erasure_sweep.dashboards.wording import amount, between, listed, nothing_erased, number, rough, with_interval
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_MOST_LINES = 4
_MOST_NAMED = 7
_MOST_ERASERS = 3
_MOST_UNSETTLED = 3
_MOST_TRAININGS = 3
_CARDS = {
    "size": "erasure against size",
    "layers": "layer by layer",
    "strongest": "the strongest writers",
    "causal": "the causal maps",
    "trust": "trust in DLA",
    "dla": "DLA taken back",
    "training": "erasure in training",
    "removed": "writers mostly gone",
}
_ERASED = (
    "Erased by reading is how much all later heads together write against a writer because they read it, or what earlier "
    "ones left of it, as a share of its output: 1 is all of it, above 1 more than it wrote. It is what they do for that one "
    "reason and not the net change: other components, and the same heads for other reasons, can write it back. So beside it "
    "stands written → remaining, the share of its output in the stream where it writes and at the end."
)


@card(COMPARISON, "answers", order=10)
def answers(view: ComparisonView) -> Prose:
    """The three answers: of training by all points of it, the others by final weights."""
    models, homes = view.models, view.homes
    final = final_models(models)
    parts = [
        Markup("<p>{}</p>").format(_ERASED),
        Markup("<h3>Does erasure grow with depth and width?</h3>"),
        *_of_size(final, one_training=is_one_training(models)),
        Markup("<h3>Which heads are erased, by whom, and which DLA should I not trust?</h3>"),
        *_of_erased(final, homes),
        *_of_trust(final, homes),
        Markup("<h3>How did it arise in training?</h3>"),
        *_of_training(models),
    ]
    checkpoints = "" if len(final) == len(models) else " Answers 1 and 2 use final weights."
    return Prose(
        "At a glance",
        "A head erases only what earlier layers wrote, so heads of a last layer are never erased. These are facts of the "
        f"models on this page, not laws.{checkpoints}",
        {"0": Markup("\n").join(parts)} if models else {},
        tables=("writers", "v_composition", "dla_trust"),
        empty="There are no models to compare.",
    )


def _of_size(shown: Sequence[ModelTables], one_training: bool) -> list[Markup]:
    if one_training:
        return [_paragraph("These are points of one model's training: depth and width are the same in all.")]
    if not any(erased_of(model).by_writer for model in shown):
        return [_paragraph("Erasing by reading was not measured in any of these models.")]
    if len(shown) == 1:
        return [_paragraph("One model alone cannot say; compare it with models of its family.")]
    found = {size: growths(shown, size) for size in ("layers", "width")}
    answers = [_grown("Depth", found["layers"], "layers"), _grown("Width", found["width"], "width")]
    if not any(found.values()) and (whole := growths(shown, "parameters")):
        answers.append(_grown("Parameters", whole, "parameters"))
    several = any(found.values()) or len(answers) > 2
    heads = "Larger models mostly have more heads to choose the most erased from; each number is of one model. "
    return [*answers, Markup("<p>{}{}</p>").format(heads if several else "", _see("size", "layers", "removed"))]


def _grown(title: str, lines: Sequence[Growth], size: GrownSize) -> Markup:
    if not lines:
        sizes = "layers at equal width" if size == "layers" else "width at equal layers"
        return _paragraph(
            f"not compared, since no models in which a head was measured differ in {sizes}, one at each, and are alike in all "
            "else that is known of them (family, kind, tokens of training).",
            title,
        )
    items = [
        Markup("{}: <strong>{}</strong>{}").format(
            growth.models, growth.shares, f" (means removed {growth.centred})" if growth.centred else ""
        )
        for growth in (in_words(line, size) for line in lines[:_MOST_LINES])
    ]
    items += [escape(f"{amount(len(lines) - len(items))} more comparisons")] if len(lines) > len(items) else []
    alike = {"layers": "alike but for their layers", "width": "alike but for their width", "parameters": "of a family"}
    means = verdict(lines, lambda line: line.means)
    return Markup(
        "<p><strong>{title}.</strong> The most erased head: <strong>{heads}</strong>{centred}. The mean over erased heads: "
        "{means}.{gone} What is erased of the most erased head, in models {alike}:</p>\n{items}"
    ).format(
        title=title,
        heads=verdict(lines),
        centred=_centred(lines),
        means=_short(means),
        gone=_gone(lines) if size == "layers" else "",
        alike=alike[size],
        items=_list(items),
    )


def _centred(lines: Sequence[Growth]) -> str:
    """The verdict with means removed, in brackets; nothing where that was not measured."""
    found = verdict(lines, lambda line: line.centred)
    return f" (with means removed: {_short(found)})" if found else ""


def _gone(lines: Sequence[Growth]) -> str:
    """How many writers are mostly gone at the end as models grow; nothing where that was not measured."""
    found = verdict(lines, lambda line: line.gone)
    against = any(trend(line.heads) == "grows" for line in lines) and not any(
        trend(line.gone) == "grows" for line in lines
    )
    follows = " does not follow" if against else ""
    return f" The share of writers mostly gone at the end{follows}: {_short(found)}." if found else ""


def _short(found: str) -> str:
    return found.removesuffix(" comparisons")


def _of_erased(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[Markup]:
    found = most_erased_writers(shown)
    if not found:
        return [_paragraph(nothing_erased(model.tables for model in shown) or "not measured.", "Erased")]
    heads = [one for one in found if is_head(one.writer)]
    answers = [
        Markup("<p><strong>Most erased:</strong> {}.</p>").format(_erased(writer, homes))
        for writer in found
        if writer not in heads
    ]
    if heads:
        items = _list([_erased(head, homes) for head in heads])
        answers.append(Markup("<p><strong>Most erased heads:</strong></p>\n{}").format(items))
    n, of = halved(shown)
    counted = (
        f"In {amount(n)} of {amount(of)} models some head has half of its output or more taken out by reading. "
        if of > 1
        else ""
    )
    return [*answers, Markup("<p>{}{}</p>").format(counted, _see("strongest", "causal"))]


def _erased(one: ErasedWriter, homes: Mapping[str, Home]) -> Markup:
    centred = f" ({number(one.centred)} with means removed)" if np.isfinite(one.centred) else ""
    by = listed(one.erasers, _MOST_ERASERS) if one.erasers else "no head at most tokens"
    kept = "written → remaining: not measured"
    if np.isfinite([one.written, one.remaining]).any():
        kept = f"written → remaining: {number(one.written)}{GROWS_TO}{number(one.remaining)}"
    return Markup(
        "{writer}: later heads take out <strong>{share}</strong> of it because they read it{centred}; {kept}; erasers: {by}"
    ).format(writer=_writer(one.model, one.writer, homes), share=number(one.share), centred=centred, kept=kept, by=by)


def _of_trust(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[Markup]:
    heads, others = distrust(shown, heads=True), distrust(shown, heads=False)
    if not heads.n and not others.n:
        return [_paragraph("which to trust was not measured, since no model was verified.", "DLA")]
    least = [
        Markup("{} ({})").format(_component(head, homes), with_interval(head.arrives, head.low, head.high))
        for head in least_trusted_heads(shown)
    ]
    items = []
    if heads.n:
        arrives = Markup(" Least of it arrives from {}.").format(_listed(least)) if least else ""
        items.append(Markup("Heads: {}.{}").format(_counted(heads, homes), arrives))
    if others.n:
        items.append(Markup("Embeddings and MLPs: {}.").format(_counted(others, homes)))
    lacking = "1 model" if len(heads.absent) == 1 else f"{amount(len(heads.absent))} models"
    absent = f"Not measured in {lacking}. " if heads.absent else ""
    return [
        Markup(
            "<p><strong>DLA not to trust</strong>, since what comes later cancels or reverses its effect, does much that is "
            "unrelated to it, or lets only a part arrive (unsettled: its intervals, or another way to replace it, say "
            "different things):</p>\n{}"
            "<p>{}{}</p>"
        ).format(_list(items), absent, _see("trust", "strongest", "dla"))
    ]


def _counted(found: Distrust, homes: Mapping[str, Home]) -> Markup:
    """Of how many components of a kind DLA is not to be trusted, and which these are."""
    which = Markup(" ({})").format(_listed(_together(found.bad, homes))) if found.bad else ""
    named = _listed([_component(component, homes) for component in found.unsettled], _MOST_UNSETTLED)
    unsettled = Markup("; {} unsettled ({})").format(amount(len(found.unsettled)), named) if found.unsettled else ""
    return Markup(
        "of {n}, <strong>{bad}</strong> cancelled, reversed or unrelated{which}, <strong>{partly}</strong> partly cancelled"
        "{unsettled}"
    ).format(
        n=amount(found.n),
        bad=amount(len(found.bad)),
        which=which,
        partly=amount(len(found.partly)),
        unsettled=unsettled,
    )


def _component(one: DistrustedWriter, homes: Mapping[str, Home]) -> Markup:
    return _writer(one.model, one.component, homes)


def _together(components: Sequence[DistrustedWriter], homes: Mapping[str, Home]) -> list[Markup]:
    """Models and components, those of one name together: ``pos_embed of a, b``; last how many more components there are."""
    models: dict[str, list[str]] = {}
    for one in components:
        models.setdefault(one.component, []).append(one.model)
    shown = list(models.items())[:_MOST_NAMED]
    words = [
        Markup("{} of {}").format(
            component, _listed([_link(name, component, name, homes) for name in named], _MOST_NAMED)
        )
        for component, named in shown
    ]
    others = len(components) - sum(len(named) for _, named in shown)
    return [*words, escape(f"{amount(others)} more")] if others else words


def _of_training(models: Sequence[ModelTables]) -> list[Markup]:
    found = trained(models)
    if not found:
        return [
            _paragraph(
                "Not measured: that takes two points or more of one model's training (NAME@all names its checkpoints)."
            )
        ]
    by_name = dict(zip(display_names(models), models, strict=True))
    answers = [_trained(training, by_name) for training in found[:_MOST_TRAININGS]]
    others = len(found) - len(answers)
    more = f"{amount(others)} more trainings are in the figure. " if others else ""
    return [*answers, Markup("<p>{}{}</p>").format(more, _see("training"))]


def _trained(one: TrainedModel, models: Mapping[str, ModelTables]) -> Markup:
    first, last = one.points[0], one.points[-1]
    items = [_arose(one, writer) for writer in arisen(one)] or [escape(f"no writer is erased after {when(one, -1)}")]
    items.append(Markup("mean over erased writers: {}{}{}").format(_mean(first), GROWS_TO, _mean(last)))
    if np.isfinite([first.significant, last.significant]).all():
        pairs = f"{amount(first.significant)}{GROWS_TO}{amount(last.significant)}"
        items.append(Markup("significant pairs of a writer and a later head: <strong>{}</strong>").format(pairs))
    items += _trusted([models[point.model] for point in (first, last)])
    title = f"{one.name}, {amount(len(one.points))} points, {amount(first.at)} to {when(one, -1)}:"
    return Markup("<p><strong>{}</strong></p>\n{}").format(title, _list(items))


def _mean(point: TrainingPoint) -> Markup:
    erased = point.erased
    return Markup("<strong>{}</strong> ({} of {} writers)").format(
        number(erased.mean), amount(len(erased.positive)), amount(len(erased.by_writer))
    )


def _trusted(ends: Sequence[ModelTables]) -> list[Markup]:
    """How many components' DLA is not to be trusted at the first point and the last, and how many heads' of these."""
    every, heads = ([distrust([end], heads=only) for end in ends] for only in (None, True))
    if not all(found.n for found in every):
        return []
    bad, bad_heads = (GROWS_TO.join(amount(len(found.bad)) for found in of) for of in (every, heads))
    partly, partly_heads = (GROWS_TO.join(amount(len(found.partly)) for found in of) for of in (every, heads))
    return [
        Markup(
            "components with DLA cancelled, reversed or unrelated: <strong>{}</strong> (heads {}), partly cancelled: {} "
            "(heads {})"
        ).format(bad, bad_heads, partly, partly_heads)
    ]


def _arose(one: TrainedModel, found: ArisenErasure) -> Markup:
    if found.half == 0:
        half = "at least half of its final value at the first point already"
    else:
        reached = between(one.points[found.half - 1].at, one.points[found.half].at)
        half = f"half of its final value first reached between {reached} {one.unit}"
    more = ""
    if found.peak:
        at, share = found.peak
        more = f", more on the way ({number(share)} at {rough(one.points[at].at)})"
    shares = f"{number(found.first)}{GROWS_TO}{number(found.last)}"
    return Markup("{}: <strong>{}</strong>, {}{}").format(found.writer, shares, half, more)


def _paragraph(words: str, title: str = "") -> Markup:
    """A paragraph; ``title`` stands before it in bold."""
    before = Markup("<strong>{}:</strong> ").format(title) if title else ""
    return Markup("<p>{}{}</p>").format(before, words)


def _list(items: Sequence[Markup]) -> Markup:
    return Markup("<ul>{}</ul>\n").format(Markup("").join(Markup("<li>{}</li>").format(item) for item in items))


def _listed(items: Sequence[Markup], most: int | None = None) -> Markup:
    """As ``listed``, of HTML."""
    return Markup(listed(items, most))


def _writer(model: str, writer: str, homes: Mapping[str, Home]) -> Markup:
    """A writer, with a link to it on its model's page."""
    return Markup("{} of {}").format(_link(model, writer, writer, homes), model)


def _link(model: str, writer: str, words: str, homes: Mapping[str, Home]) -> Markup:
    return link(homes.get(model, Home()).at_writer(writer), words)


def _see(*cards: str) -> Markup:
    """Links to what shows this."""
    links = [Markup('<a href="#{}">{}</a>').format(card, _CARDS[card]) for card in cards]
    return Markup("Shown in {}.").format(_listed(links))
