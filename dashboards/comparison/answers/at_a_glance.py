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
    JudgedWriter,
    Trust,
    arisen,
    halved,
    least_arriving_heads,
    most_erased_writers,
    trust_in,
)
from erasure_sweep.dashboards.comparison.answers.growth import (
    GrownSize,
    Growth,
    GrowthWords,
    growths,
    in_words,
    larger,
    largest_trend,
    median_trend,
    training_runs_in_words,
    verdict,
)
from erasure_sweep.dashboards.comparison.sized_models import has_centred, sized
from erasure_sweep.dashboards.comparison.training import TrainedModel, trained, when
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import Prose
from erasure_sweep.dashboards.model_names import display_names, final_models, is_one_training
from erasure_sweep.dashboards.wording import (
    GROWS_TO,
    amount,
    between,
    listed,
    means_kept,
    nothing_erased,
    number,
    rough,
    with_interval,
    written_and_remaining,
)
from erasure_sweep.workers.labels import is_head
from erasure_sweep.workers.tables.facts.erased_writers import ErasedWriter
from erasure_sweep.workers.tables.facts.trust import MISLEADING
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
    "dla": "net DLA",
    "training": "erasure in training",
}
_ERASED = (
    "Erased is the share of a writer's output that later heads have taken out of the stream by its end because they, or heads "
    "between, read it: along all paths through attention, with patterns, scales and MLPs as they were. 1 is all of it; below 0 "
    "they add to it. It says nothing of what MLPs, or the same heads for other reasons, write along the writer: so beside it "
    "stands written → remaining, the share of its output in the stream where it writes and at the end. Diluted is what a "
    "growing stream makes of it in the eyes of a reader behind a norm, without anyone erasing it. Numbers are with means "
    "removed, what is the same at every token left out, unless it says that means are kept; diluted and erasers are of outputs "
    "as they are."
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
    if not sized(shown):
        return [_paragraph("Erasure of heads was not measured in any of these models.")]
    if len(shown) == 1:
        return [_paragraph("One model alone cannot say; compare it with models of its family.")]
    found = {size: growths(shown, size) for size in ("layers", "width")}
    answers = [_grown("Depth", found["layers"], "layers"), _grown("Width", found["width"], "width")]
    if not any(found.values()) and (whole := growths(shown, "parameters")):
        answers.append(_grown("Parameters", whole, "parameters"))
    return [*answers, Markup("<p>{}</p>").format(_see("size", "layers"))]


def _grown(title: str, lines: Sequence[Growth], size: GrownSize) -> Markup:
    if not lines:
        sizes = "layers at equal width" if size == "layers" else "width at equal layers"
        return _paragraph(
            f"not compared, since no models in which a head was measured differ in {sizes}, one at each, and are alike in all "
            "else that is known of them (family, kind, tokens of training).",
            title,
        )
    centred = all(has_centred(runs) for line in lines for runs in line.runs)
    of_medians, of_largest = (
        verdict(lines, lambda line, trend=trend: trend(line, centred)) for trend in (median_trend, largest_trend)
    )
    kept = verdict(lines, lambda line: median_trend(line, False))
    alike = {"layers": "alike but for their layers", "width": "alike but for their width", "parameters": "of a family"}
    items = [_grown_line(in_words(line, size)) for line in lines[:_MOST_LINES]]
    items += [escape(f"{amount(len(lines) - len(items))} more comparisons")] if len(lines) > len(items) else []
    return Markup(
        "<p><strong>{title}.</strong> What is erased of a model's heads, the median over them: <strong>{medians}, "
        "{runs}</strong>{kept}. The most erased head's share is larger in {larger} of {n}, as more heads alone can make it; "
        "apart from that it {largest}. In models {alike}:</p>\n{items}"
    ).format(
        title=title,
        medians=of_medians,
        runs=training_runs_in_words(lines),
        kept=f" (with means kept it {kept})" if kept != of_medians else "",
        larger=amount(larger(lines, centred)),
        n=amount(len(lines)),
        largest=of_largest,
        alike=alike[size],
        items=_list(items),
    )


def _grown_line(growth: GrowthWords) -> Markup:
    diluted = f"; diluted {growth.diluted}" if growth.diluted else ""
    kept = f" (with means kept {growth.kept})" if growth.kept else ""
    return Markup("{}: median <strong>{}</strong>{}; {}{}").format(
        growth.models, growth.medians, kept, growth.largest, diluted
    )


def _of_erased(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[Markup]:
    found = most_erased_writers(shown)
    if not found:
        return [_paragraph(nothing_erased(model.tables for model in shown) or "not measured.", "Erased")]
    heads = [pair for pair in found if is_head(pair[1].writer)]
    answers = [
        Markup("<p><strong>Most erased:</strong> {}.</p>").format(_erased(*pair, homes))
        for pair in found
        if pair not in heads
    ]
    if heads:
        items = _list([_erased(*pair, homes) for pair in heads])
        answers.append(Markup("<p><strong>Most erased heads:</strong></p>\n{}").format(items))
    n, of = halved(shown)
    counted = (
        f"In {amount(n)} of {amount(of)} models some head has half of its output or more taken out. " if of > 1 else ""
    )
    return [*answers, Markup("<p>{}{}</p>").format(counted, _see("strongest", "causal"))]


def _erased(model: str, one: ErasedWriter, homes: Mapping[str, Home]) -> Markup:
    return Markup("{writer}: later heads take out <strong>{share}</strong> of it{means}; {kept}; erasers: {by}").format(
        writer=_writer(model, one.writer, homes),
        share=with_interval(*one.share),
        means=means_kept(one),
        kept=written_and_remaining(one),
        by=listed(one.erasers, _MOST_ERASERS) if one.erasers else "no head at most tokens",
    )


def _of_trust(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[Markup]:
    kinds = [("Heads", trust_in(shown, heads=True)), ("Embeddings and MLPs", trust_in(shown, heads=False))]
    absent = kinds[0][1].absent
    kinds = [(kind, found) for kind, found in kinds if found.n]
    if not kinds:
        return [_paragraph("which to trust was not measured, since no model was verified.", "DLA")]
    items = [Markup("{}: {}.").format(kind, _counted(found, homes)) for kind, found in kinds]
    if least := least_arriving_heads(shown):
        arriving = [Markup("{} ({})").format(_component(head, homes), with_interval(*head.arrives)) for head in least]
        of_these = Markup(
            "Of heads whose DLA is settled as cancelled, reversed or partly cancelled least arrives of {}."
        )
        items.append(of_these.format(_listed(arriving)))
    lacking = "1 model" if len(absent) == 1 else f"{amount(len(absent))} models"
    not_measured = f"Not measured in {lacking}. " if absent else ""
    return [
        Markup(
            "<p><strong>DLA not to trust</strong>: what comes later takes its effect back (cancelled) or turns it around "
            "(reversed), or so much else happens that DLA does not say what (unrelated). Only settled words are counted: the "
            "same all over the 95\u00a0% intervals, whatever the component is replaced by.</p>\n{}<p>{}{}</p>"
        ).format(_list(items), not_measured, _see("trust", "strongest", "dla"))
    ]


def _counted(found: Trust, homes: Mapping[str, Home]) -> Markup:
    """Of how many components of a kind DLA is not to be trusted, which these are, and how many are unsettled."""
    bad = found.misleading
    which = Markup(" ({})").format(_listed(_together(bad, homes))) if bad else ""
    others = [f"{amount(len(ones))} {word}" for word, ones in found.settled.items() if word not in MISLEADING]
    named = _listed([_component(component, homes) for component in found.unsettled], _MOST_UNSETTLED)
    unsettled = Markup(" ({})").format(named) if found.unsettled else ""
    return Markup(
        "of {n}, <strong>{bad}</strong> {words}{which}{others}; <strong>{m}</strong> unsettled{unsettled}"
    ).format(
        n=amount(found.n),
        bad=amount(len(bad)),
        words=" or ".join([", ".join(MISLEADING[:-1]), MISLEADING[-1]]),
        which=which,
        others=f"; {', '.join(others)}" if others else "",
        m=amount(len(found.unsettled)),
        unsettled=unsettled,
    )


def _component(one: JudgedWriter, homes: Mapping[str, Home]) -> Markup:
    return _writer(one.model, one.component, homes)


def _together(components: Sequence[JudgedWriter], homes: Mapping[str, Home]) -> list[Markup]:
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
    if np.isfinite([first.median.value, last.median.value]).all():
        ends = (with_interval(*point.median) for point in (first, last))
        items.append(
            Markup("median over {} heads: <strong>{}</strong>").format(amount(last.n_heads), GROWS_TO.join(ends))
        )
    if np.isfinite([first.significant, last.significant]).all():
        pairs = f"{amount(first.significant)}{GROWS_TO}{amount(last.significant)}"
        items.append(Markup("significant pairs of a writer and a later head: <strong>{}</strong>").format(pairs))
    items += _trusted([models[point.model] for point in (first, last)])
    title = f"{one.name}, {amount(len(one.points))} points, {amount(first.at)} to {when(one, -1)}:"
    return Markup("<p><strong>{}</strong></p>\n{}").format(title, _list(items))


def _trusted(ends: Sequence[ModelTables]) -> list[Markup]:
    """How many components' DLA misleads at the first point and the last, how many heads' of these, and what is unsettled."""
    every, heads = ([trust_in([end], heads=only) for end in ends] for only in (None, True))
    if not all(found.n for found in every):
        return []
    bad, bad_heads = (GROWS_TO.join(amount(len(found.misleading)) for found in of) for of in (every, heads))
    unsettled = GROWS_TO.join(amount(len(found.unsettled)) for found in every)
    return [
        Markup(
            "components with DLA cancelled, reversed or unrelated: <strong>{}</strong> (heads {}), unsettled: {}"
        ).format(bad, bad_heads, unsettled)
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
