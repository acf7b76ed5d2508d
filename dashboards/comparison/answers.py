"""The comparison at a glance: three questions, each answered in a few sentences by the numbers of the page.

Answers are facts of the models on the page, no laws, and say what was not measured. ``findings`` finds what
is said as plain data, this puts it into words; every answer leads to the figure that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from erasure_sweep.dashboards.comparison.findings import (
    Arisen,
    Distrust,
    Distrusted,
    ErasedWriter,
    arisen,
    distrust,
    halved,
    least_trusted_heads,
    most_erased_writers,
)
from erasure_sweep.dashboards.comparison.growth import ARROW, Growth, Size, growths, in_words, trend, verdict
from erasure_sweep.dashboards.comparison.training import Point, Trained, erased_of, trained, when
from erasure_sweep.dashboards.html.document import Markup, Prose, escape
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.model_names import display_names, final_models, is_one_training
from erasure_sweep.dashboards.model_tables import ModelTables, kind_of
from erasure_sweep.dashboards.wording import amount, between, listed, number, rough, with_interval

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
    "Erased by reading is how much all later heads together write against a writer because they read it, as a share of "
    "its output: 1 is all of it, above 1 more than it wrote. It is what they do for that one reason and not the net "
    "change: other components, and the same heads for other reasons, can write it back. So beside it stands written → "
    "remaining, the share of its output in the stream where it writes and at the end."
)


def answers(models: Sequence[ModelTables], homes: Mapping[str, Home]) -> Prose:
    """The three answers: of training by all points of it, the others by final weights."""
    final = final_models(models)
    parts = [
        f"<p>{_ERASED}</p>",
        "<h3>Does erasure grow with depth and width?</h3>",
        *_of_size(final, one_training=is_one_training(models)),
        "<h3>Which heads are erased, by whom, and which DLA should I not trust?</h3>",
        *_of_erased(final, homes),
        *_of_trust(final, homes),
        "<h3>How did it arise in training?</h3>",
        *_of_training(models),
    ]
    checkpoints = "" if len(final) == len(models) else " Answers 1 and 2 use final weights."
    return Prose(
        "answers",
        "At a glance",
        "A head erases only what earlier layers wrote, so heads of a last layer are never erased. These are facts of the "
        f"models on this page, not laws.{checkpoints}",
        {"0": Markup("\n".join(parts))} if models else {},
        tables=("writers", "v_composition", "dla_trust"),
        empty="There are no models to compare.",
    )


def _of_size(shown: Sequence[ModelTables], one_training: bool) -> list[str]:
    if one_training:
        return [_said("These are points of one model's training: depth and width are the same in all.")]
    if not any(erased_of(model).by_writer for model in shown):
        return [_said("Erasing by reading was not measured in any of these models.")]
    if len(shown) == 1:
        return [_said("One model alone cannot say; compare it with models of its family.")]
    found = {size: growths(shown, size) for size in ("layers", "width")}
    said = [_grown("Depth", found["layers"], "layers"), _grown("Width", found["width"], "width")]
    if not any(found.values()) and (whole := growths(shown, "parameters")):
        said.append(_grown("Parameters", whole, "parameters"))
    several = any(found.values()) or len(said) > 2
    heads = "Larger models mostly have more heads to choose the most erased from; each number is of one model. "
    return [*said, f"<p>{heads if several else ''}{_see('size', 'layers', 'removed')}</p>"]


def _grown(title: str, lines: Sequence[Growth], size: Size) -> str:
    if not lines:
        what = "layers at equal width" if size == "layers" else "width at equal layers"
        return _said(
            f"not compared, since no models in which a head was measured differ in {what}, one at each, and are alike in all "
            "else that is known of them (family, kind, tokens of training).",
            title,
        )
    said = [in_words(line, size) for line in lines[:_MOST_LINES]]
    items = [
        f"{escape(one.models)}: <strong>{one.shares}</strong>"
        + (f" (means removed {one.centred})" if one.centred else "")
        for one in said
    ]
    items += [f"{amount(len(lines) - len(said))} more comparisons"] if len(lines) > len(said) else []
    alike = {"layers": "alike but for their layers", "width": "alike but for their width", "parameters": "of a family"}
    means = verdict(lines, lambda line: line.means)
    return (
        f"<p><strong>{title}.</strong> The most erased head: <strong>{verdict(lines)}</strong>{_centred(lines)}. The mean "
        f"over erased heads: {_short(means)}.{_gone(lines) if size == 'layers' else ''} What is erased of the most erased "
        f"head, in models {alike[size]}:</p>\n{_list(items)}"
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


def _of_erased(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[str]:
    found = most_erased_writers(shown)
    if not found:
        measured = any(erased_of(model).by_writer for model in shown)
        return [_said("none: of no writer a hundredth or more." if measured else "not measured.", "Erased")]
    heads = [one for one in found if kind_of(one.writer) == "head"]
    said = [f"<p><strong>Most erased:</strong> {_erased(one, homes)}.</p>" for one in found if one not in heads]
    if heads:
        said.append(f"<p><strong>Most erased heads:</strong></p>\n{_list([_erased(one, homes) for one in heads])}")
    n, of = halved(shown)
    counted = (
        f"In {amount(n)} of {amount(of)} models some head has half of its output or more taken out by reading. "
        if of > 1
        else ""
    )
    return [*said, f"<p>{counted}{_see('strongest', 'causal')}</p>"]


def _erased(one: ErasedWriter, homes: Mapping[str, Home]) -> str:
    centred = f" ({number(one.centred)} with means removed)" if np.isfinite(one.centred) else ""
    by = escape(listed(one.erasers, _MOST_ERASERS)) if one.erasers else "no head at most tokens"
    kept = "written → remaining: not measured"
    if np.isfinite([one.written, one.remaining]).any():
        kept = f"written → remaining: {number(one.written)}{ARROW}{number(one.remaining)}"
    share = f"later heads take out <strong>{number(one.share)}</strong> of it because they read it{centred}"
    return f"{_writer(one.model, one.writer, homes)}: {share}; {kept}; erasers: {by}"


def _of_trust(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[str]:
    heads, others = distrust(shown, heads=True), distrust(shown, heads=False)
    if not heads.n and not others.n:
        return [_said("which to trust was not measured, since no model was verified.", "DLA")]
    least = [f"{_component(one, homes)} ({_survives(one)})" for one in least_trusted_heads(shown)]
    items = [
        *(
            [f"Heads: {_counted(heads, homes)}.{f' Least survives in {listed(least)}.' if least else ''}"]
            if heads.n
            else []
        ),
        *([f"Embeddings and MLPs: {_counted(others, homes)}."] if others.n else []),
    ]
    lacking = "1 model" if len(heads.absent) == 1 else f"{amount(len(heads.absent))} models"
    absent = f"Not measured in {lacking}. " if heads.absent else ""
    return [
        f"<p><strong>DLA not to trust</strong>, since what comes later cancels or reverses its effect, or leaves only a part "
        f"(25 to 75\u00a0%; unsettled: the two ends of its 95\u00a0% interval tell different things):</p>\n{_list(items)}"
        f"<p>{absent}{_see('trust', 'strongest', 'dla')}</p>"
    ]


def _counted(found: Distrust, homes: Mapping[str, Home]) -> str:
    """Of how many components of a kind DLA is not to be trusted, and which these are."""
    which = f" ({listed(_together(found.bad, homes))})" if found.bad else ""
    named = listed([_component(one, homes) for one in found.unsettled], _MOST_UNSETTLED)
    unsettled = f"; {amount(len(found.unsettled))} unsettled ({named})" if found.unsettled else ""
    return (
        f"of {amount(found.n)}, <strong>{amount(len(found.bad))}</strong> cancelled or reversed{which}, "
        f"<strong>{amount(len(found.partly))}</strong> partly cancelled{unsettled}"
    )


def _component(one: Distrusted, homes: Mapping[str, Home]) -> str:
    return _writer(one.model, one.component, homes)


def _survives(one: Distrusted) -> str:
    return with_interval(one.survives, one.low, one.high)


def _together(components: Sequence[Distrusted], homes: Mapping[str, Home]) -> list[str]:
    """Models and components, those of one name together: ``pos_embed of a, b``; last how many more components there are."""
    models: dict[str, list[str]] = {}
    for one in components:
        models.setdefault(one.component, []).append(one.model)
    shown = list(models.items())[:_MOST_NAMED]
    said = [
        f"{escape(component)} of " + listed([_link(name, component, name, homes) for name in named], _MOST_NAMED)
        for component, named in shown
    ]
    others = len(components) - sum(len(named) for _, named in shown)
    return [*said, f"{amount(others)} more"] if others else said


def _of_training(models: Sequence[ModelTables]) -> list[str]:
    found = trained(models)
    if not found:
        return [
            _said(
                "Not measured: that takes two points or more of one model's training (NAME@all names its checkpoints)."
            )
        ]
    by_name = dict(zip(display_names(models), models, strict=True))
    said = [_trained(one, by_name) for one in found[:_MOST_TRAININGS]]
    more = f"{amount(len(found) - len(said))} more trainings are in the figure. " if len(found) > len(said) else ""
    return [*said, f"<p>{more}{_see('training')}</p>"]


def _trained(one: Trained, models: Mapping[str, ModelTables]) -> str:
    first, last = one.points[0], one.points[-1]
    items = [_arose(one, writer) for writer in arisen(one)] or [f"no writer is erased after {when(one, -1)}"]
    items.append(f"mean over erased writers: {_mean(first)}{ARROW}{_mean(last)}")
    if np.isfinite([first.significant, last.significant]).all():
        pairs = f"{amount(first.significant)}{ARROW}{amount(last.significant)}"
        items.append(f"significant pairs of a writer and a later head: <strong>{pairs}</strong>")
    items += _trusted([models[point.model] for point in (first, last)])
    title = f"{escape(one.name)}, {amount(len(one.points))} points, {amount(first.at)} to {when(one, -1)}:"
    return f"<p><strong>{title}</strong></p>\n{_list(items)}"


def _mean(point: Point) -> str:
    erased = point.erased
    return (
        f"<strong>{number(erased.mean)}</strong> ({amount(len(erased.positive))} of {amount(len(erased.by_writer))} "
        "writers)"
    )


def _trusted(ends: Sequence[ModelTables]) -> list[str]:
    """How many components' DLA is not to be trusted at the first point and the last, and how many heads' of these."""
    every, heads = ([distrust([end], heads=only) for end in ends] for only in (None, True))
    if not all(found.n for found in every):
        return []
    bad, bad_heads = (ARROW.join(amount(len(found.bad)) for found in of) for of in (every, heads))
    partly, partly_heads = (ARROW.join(amount(len(found.partly)) for found in of) for of in (every, heads))
    return [
        f"components with DLA cancelled or reversed: <strong>{bad}</strong> (heads {bad_heads}), partly cancelled: {partly} "
        f"(heads {partly_heads})"
    ]


def _arose(one: Trained, found: Arisen) -> str:
    if found.half == 0:
        half = "at least half of its final value at the first point already"
    else:
        reached = between(one.points[found.half - 1].at, one.points[found.half].at)
        half = f"half of its final value first reached between {reached} {one.unit}"
    more = ""
    if found.peak:
        at, share = found.peak
        more = f", more on the way ({number(share)} at {rough(one.points[at].at)})"
    return f"{escape(found.writer)}: <strong>{number(found.first)}{ARROW}{number(found.last)}</strong>, {half}{more}"


def _said(said: str, title: str = "") -> str:
    """A paragraph; ``title`` stands before it in bold."""
    return f"<p>{f'<strong>{escape(title)}:</strong> ' if title else ''}{escape(said)}</p>"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>\n"


def _writer(model: str, writer: str, homes: Mapping[str, Home]) -> str:
    """A writer, with a link to it on its model's page."""
    return f"{_link(model, writer, writer, homes)} of {escape(model)}"


def _link(model: str, writer: str, words: str, homes: Mapping[str, Home]) -> str:
    return link(homes.get(model, Home()).at_writer(writer), words)


def _see(*cards: str) -> str:
    """Links to what shows this."""
    return "Shown in " + listed([f'<a href="#{card}">{_CARDS[card]}</a>' for card in cards]) + "."
