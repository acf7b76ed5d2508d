"""The comparison at a glance: three questions, each answered in a few sentences by the numbers of the page.

Answers are facts of the models on the page, no laws, and say what was not measured. Step one finds what is said as plain
data, step two puts it into words; every answer leads to the figure that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from dashboards.document import Markup, Prose, escape
from dashboards.growth import ARROW, Growth, Size, growths, in_words, verdict
from dashboards.homes import Home, link
from dashboards.lineup import display_names, final_models, is_one_training
from dashboards.strips import NOTICEABLE
from dashboards.strongest import by_strength, trust_of
from dashboards.tables import ModelTables, kind_of, numeric, reading_of, strings, table_of, writers_table
from dashboards.training import Trained, erased_of, trained
from dashboards.trust import CANCELLED, PARTLY, REVERSED
from dashboards.wording import amount, listed, number

HALF = 0.5
_MOST_LINES = 4
_MOST_HEADS = 3
_MOST_NAMED = 7
_MOST_ERASERS = 3
_MOST_TRAININGS = 3
_CARDS = {
    "size": "erasure against size",
    "layers": "layer by layer",
    "strongest": "the strongest writers",
    "causal": "the causal maps",
    "trust": "trust in DLA",
    "dla": "DLA taken back",
    "training": "erasure in training",
}


class ErasedWriter(NamedTuple):
    """A writer of which something is erased, and the heads that do it, the strongest first."""

    model: str
    writer: str
    share: float
    centred: float
    erasers: list[str]


class Distrust(NamedTuple):
    """What resampling says of DLA: of ``n`` components, ``bad`` are those of which nothing of it is left, or the opposite.

    ``partly``: how many have a part left. ``absent``: models in which this was not measured.
    """

    n: int
    bad: list[tuple[str, str]]
    partly: int
    absent: list[str]


class Arisen(NamedTuple):
    """A writer's share at the first and the last point; ``half`` is the first point with half of the last or more."""

    writer: str
    first: float
    last: float
    half: int


def most_erased_writers(models: Sequence[ModelTables], heads: int = _MOST_HEADS) -> list[ErasedWriter]:
    """The most erased writer of all models, then their most erased heads; none of which less than a hundredth is erased."""
    found = []
    for at, model in enumerate(models):
        shares = numeric(writers_table(model), "erased_by_reading")
        found += [(float(shares[row]), at, int(row)) for row in np.flatnonzero(np.nan_to_num(shares) >= NOTICEABLE)]
    found.sort(key=lambda one: -one[0])
    names = display_names(models)
    return [_erased_writer(names[at], models[at], row) for _, at, row in _first_heads(found, models, heads)]


def _first_heads(
    found: Sequence[tuple[float, int, int]], models: Sequence[ModelTables], heads: int
) -> list[tuple[float, int, int]]:
    of_heads = [one for one in found if kind_of(str(writers_table(models[one[1]])["writer"].iloc[one[2]])) == "head"]
    return [*found[:1], *(one for one in of_heads[:heads] if one not in found[:1])]


def _erased_writer(name: str, model: ModelTables, row: int) -> ErasedWriter:
    table = writers_table(model)
    writer = str(table["writer"].iloc[row])
    share, centred = (float(numeric(table, f"erased_by_reading{suffix}")[row]) for suffix in ("", "_centred"))
    erasers = by_strength(reading_of(model), writer, strings(table, "erasers")[row]) or []
    return ErasedWriter(name, writer, share, centred, erasers)


def halved(models: Sequence[ModelTables]) -> tuple[int, int]:
    """In how many models a head loses half of its output or more, and in how many heads were measured."""
    heads = [found for model in models if (found := erased_of(model).heads).by_writer]
    return sum(one.strongest[1] >= HALF for one in heads), len(heads)


def distrust(models: Sequence[ModelTables]) -> Distrust:
    """The components of all models in which resampling was measured."""
    words = {name: trust_of(model) for name, model in zip(display_names(models), models, strict=True)}
    each = [(name, component, word) for name, found in words.items() for component, word in found.items()]
    bad = [(name, component) for name, component, word in each if word in (CANCELLED, REVERSED)]
    partly = sum(word == PARTLY for _, _, word in each)
    return Distrust(len(each), bad, partly, [name for name, found in words.items() if not found])


class LeastTrusted(NamedTuple):
    """A head and the share of its DLA's effect that survives what comes later."""

    model: str
    head: str
    survives: float


def least_trusted_heads(models: Sequence[ModelTables], n: int = _MOST_HEADS) -> list[LeastTrusted]:
    """The heads of all models of whose DLA least survives, the least first; none that can be trusted."""
    found = []
    for name, model in zip(display_names(models), models, strict=True):
        words, table = trust_of(model), table_of(model, "dla_trust")
        slopes = zip(table["writer"].astype(str), numeric(table, "effect_slope"), strict=True)
        found += [
            LeastTrusted(name, head, float(slope))
            for head, slope in slopes
            if kind_of(head) == "head" and np.isfinite(slope) and words.get(head) in (PARTLY, CANCELLED, REVERSED)
        ]
    return sorted(found, key=lambda one: one.survives)[:n]


def arisen(one: Trained) -> list[Arisen]:
    """The writer most erased at the last point and the head most erased there, once where it is a head."""
    last = one.points[-1].erased
    writers = dict.fromkeys([last.strongest[0], last.heads.strongest[0]])
    return [_arisen(one, writer) for writer in writers if last.by_writer.get(writer, 0.0) >= NOTICEABLE]


def _arisen(one: Trained, writer: str) -> Arisen:
    shares = [point.erased.by_writer.get(writer, float("nan")) for point in one.points]
    half = next(at for at, share in enumerate(shares) if share >= HALF * shares[-1])
    return Arisen(writer, shares[0], shares[-1], half)


def answers(models: Sequence[ModelTables], homes: Mapping[str, Home]) -> Prose:
    """The three answers: of training by all points of it, the others by final weights."""
    final = final_models(models)
    parts = [
        "<h3>Does erasure grow with depth and width?</h3>",
        *_of_size(final, one_training=is_one_training(models)),
        "<h3>Which heads are erased, by whom, and which DLA should I not trust?</h3>",
        *_of_erased(final, homes),
        *_of_trust(final, homes),
        "<h3>How did it arise in training?</h3>",
        *_of_training(models),
    ]
    checkpoints = (
        ""
        if len(final) == len(models)
        else " Of models with checkpoints the first two answers are on the last weights."
    )
    return Prose(
        "answers",
        "At a glance",
        "Erased is the share of a writer's output that all later heads together remove because they read it: 1 is all of "
        "it, above 1 they write more against it than it wrote. A head erases only what earlier layers wrote, so heads of "
        "a last layer are never erased. These are facts of the models on this page, not laws."
        f"{checkpoints}",
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
    return [*said, f"<p>{_see('size', 'layers')}</p>"]


def _grown(title: str, lines: Sequence[Growth], size: Size) -> str:
    if not lines:
        what = "layers at equal width" if size == "layers" else "width at equal layers"
        return _said(
            f"not compared, since no two models of a family in which a head was measured differ in {what}.", title
        )
    said = [in_words(line, size) for line in lines[:_MOST_LINES]]
    items = [f"{escape(one.models)}: <strong>{one.shares}</strong>" for one in said]
    items += [f"{amount(len(lines) - len(said))} more comparisons"] if len(lines) > len(said) else []
    alike = {"layers": "alike but for their layers", "width": "alike but for their width", "parameters": "of a family"}
    means = verdict(lines, lambda line: line.means)
    return (
        f"<p><strong>{title}: {verdict(lines)}.</strong> The share that the most erased head loses, of models {alike[size]}:"
        f"</p>\n{_list(items)}<p>The mean over the heads that lose anything: {means}.</p>"
    )


def _of_erased(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[str]:
    found = most_erased_writers(shown)
    if not found:
        measured = any(erased_of(model).by_writer for model in shown)
        return [_said("none: no writer loses a hundredth of its output." if measured else "not measured.", "Erased")]
    heads = [one for one in found if kind_of(one.writer) == "head"]
    said = [f"<p><strong>Most erased:</strong> {_erased(one, homes)}.</p>" for one in found if one not in heads]
    if heads:
        said.append(f"<p><strong>Most erased heads:</strong></p>\n{_list([_erased(one, homes) for one in heads])}")
    n, of = halved(shown)
    counted = f"A head loses half of its output or more in {amount(n)} of {amount(of)} models. " if of > 1 else ""
    return [*said, f"<p>{counted}{_see('strongest', 'causal')}</p>"]


def _erased(one: ErasedWriter, homes: Mapping[str, Home]) -> str:
    centred = f" ({number(one.centred)} with means removed)" if np.isfinite(one.centred) else ""
    by = f"by {escape(listed(one.erasers, _MOST_ERASERS))}" if one.erasers else "by no head at most tokens"
    return f"{_writer(one.model, one.writer, homes)} loses <strong>{number(one.share)}</strong>{centred}, {by}"


def _of_trust(shown: Sequence[ModelTables], homes: Mapping[str, Home]) -> list[str]:
    found = distrust(shown)
    if not found.n:
        return [_said("which to trust was not measured, since no model was verified.", "DLA")]
    which = f": {listed(_together(found.bad, homes), _MOST_NAMED)}" if found.bad else ""
    heads = [f"{_writer(one.model, one.head, homes)} ({number(one.survives)})" for one in least_trusted_heads(shown)]
    least = f" Of heads the least survives in {listed(heads)}." if heads else ""
    absent = f" Not measured in {amount(len(found.absent))} of the models." if found.absent else ""
    return [
        f"<p><strong>DLA not to trust:</strong> that of {amount(len(found.bad))} of {amount(found.n)} components is cancelled "
        f"or reversed by what comes later{which}; of {amount(found.partly)} more only a part (25 to 75\u00a0%) survives."
        f"{least}{absent}</p>",
        f"<p>{_see('trust', 'dla')}</p>",
    ]


def _together(components: Sequence[tuple[str, str]], homes: Mapping[str, Home]) -> list[str]:
    """Models and components, those of one name together: ``pos_embed of a, b``."""
    models: dict[str, list[str]] = {}
    for model, component in components:
        models.setdefault(component, []).append(model)
    return [
        f"{escape(component)} of " + listed([_link(one, component, one, homes) for one in named], _MOST_NAMED)
        for component, named in models.items()
    ]


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
    items = [_arose(one, writer) for writer in arisen(one)] or [f"no writer is erased after {_when(one, -1)}"]
    means = f"{number(first.erased.mean)}{ARROW}{number(last.erased.mean)}"
    items.append(f"mean over the writers that lose anything: <strong>{means}</strong>")
    trust = [distrust([models[point.model]]) for point in (first, last)]
    if all(at.n for at in trust):
        bad, partly = (ARROW.join(amount(n) for n in counts) for counts in _counts(trust))
        items.append(f"components with DLA cancelled or reversed: <strong>{bad}</strong>, partly cancelled: {partly}")
    title = f"{escape(one.name)}, {amount(len(one.points))} points, {amount(first.at)} to {_when(one, -1)}:"
    return f"<p><strong>{title}</strong></p>\n{_list(items)}"


def _counts(trust: Sequence[Distrust]) -> tuple[list[int], list[int]]:
    return [len(at.bad) for at in trust], [at.partly for at in trust]


def _arose(one: Trained, found: Arisen) -> str:
    half = (
        "at least half of that at the first point already"
        if found.half == 0
        else f"half of that first passed between {amount(one.points[found.half - 1].at)} and {_when(one, found.half)}"
    )
    return f"{escape(found.writer)}: <strong>{number(found.first)}{ARROW}{number(found.last)}</strong>, {half}"


def _when(one: Trained, at: int) -> str:
    return f"{amount(one.points[at].at)} {one.unit}"


def _said(said: str, title: str = "") -> str:
    """A paragraph; ``title`` stands before it in bold."""
    return f"<p>{f'<strong>{escape(title)}:</strong> ' if title else ''}{escape(said)}</p>"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>\n"


def _writer(model: str, writer: str, homes: Mapping[str, Home]) -> str:
    """A writer, with a link to it on its model's page."""
    return f"{_link(model, writer, writer, homes)} of {escape(model)}"


def _link(model: str, writer: str, words: str, homes: Mapping[str, Home]) -> str:
    page = homes.get(model, Home()).page
    return link(f"{page}#writer={quote(writer)}" if page else None, words)


def _see(*cards: str) -> str:
    """Links to what shows this."""
    return "Shown in " + listed([f'<a href="#{card}">{_CARDS[card]}</a>' for card in cards]) + "."
