"""What stands above the figures of a comparison: the table of models, what they read, and what to mind."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import escape

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable, SortedCell
from erasure_sweep.dashboards.model_names import display_names, is_checkpoint, is_one_training
from erasure_sweep.dashboards.plots.writer_strips import ERASED, OPPOSED, StripColumn, strip_points, strongest_points
from erasure_sweep.dashboards.wording import OWN, corpora_read, measured_with, number, of_sweep, protocol_warnings
from erasure_sweep.workers.manifest import READY_TOKENS, Manifest
from erasure_sweep.workers.tables.facts.erasure import is_ranked, writers_by_rank
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_NAMED_WRITERS = 3
_ALIKE = ("n_prompts", "prompts", "seq_len", "seed")
_SIZES = {"n_layers": "layers", "d_model": "width", "n_params": "parameters"}
_TITLES = {"n_params": "weights of attention and MLPs, without embeddings, biases and norms"}
_TRAINING = {"training_tokens": "training tokens", "training_steps": "training steps"}


@card(COMPARISON, "models", order=50)
def overview(view: ComparisonView) -> HtmlTable:
    """The table of models: name (a link where there is a page), shape, training, tokens, corpus, the top writers.

    Checkpoints stand after the models, but for those of one training alone, which stay in its order.

    Top writers are the most erased; where a model lacks that, all have their most opposed too. Training and
    corpus are there where models differ in them.
    """
    models, homes = view.models, view.homes
    ranked = [is_ranked(writers_by_rank(model.tables)) for model in models]
    tops = [(ERASED, "most erased: share (written → remaining)")] if any(ranked) else []
    tops += [] if ranked and all(ranked) else [(OPPOSED, "most opposed: written → remaining")]
    counted = {**_SIZES, **_training(models), "n_tokens": "tokens measured"}
    names = display_names(models)
    placed = list(zip(names, models, strict=True))
    if not is_one_training(models):
        placed.sort(key=lambda one: is_checkpoint(one[1].about))
    corpora = len(corpora_read([model.about for model in models], names)) > 1
    rows = []
    for name, model in placed:
        about = model.about
        shown = link(homes.get(name, Home()).page, name)
        read = [about.corpus_name] if corpora else []
        rows.append([shown, *(getattr(about, key) for key in counted), *read])
        rows[-1] += [_top_three(model, measure) for measure, _ in tops]
    erased = (
        "most erased, means removed where that was measured" if any(ranked) else "that later components opposed most"
    )
    return HtmlTable(
        "The models",
        f"The three writers {erased}, with the share of their output in the stream where they write and at the end. "
        "A model's name leads to its page.",
        [
            HtmlColumn("model"),
            *(HtmlColumn(heading, _TITLES.get(key, ""), True) for key, heading in counted.items()),
            *([HtmlColumn("corpus", width="narrow")] if corpora else []),
            *(HtmlColumn(title) for _, title in tops),
        ],
        rows,
        empty="There are no models to compare.",
        tables=("writers",),
    )


def _training(models: Sequence[ModelTables]) -> dict[str, str]:
    """How far models were trained: what is known of any, where there are checkpoints or models differ in it."""
    known = {key: [getattr(model.about, key) for model in models] for key in _TRAINING}
    differ = len({tokens for tokens in known["training_tokens"] if tokens is not None}) > 1
    if not differ and not any(is_checkpoint(model.about) for model in models):
        return {}
    tokens, steps = known.values()
    # steps say nothing that tokens do not, but for models of which tokens are not known
    lacking = any(n is not None and m is None for n, m in zip(steps, tokens, strict=True))
    shown = {"training_tokens": any(n is not None for n in tokens), "training_steps": lacking}
    return {key: heading for key, heading in _TRAINING.items() if shown[key]}


def _top_three(model: ModelTables, measure: StripColumn) -> str | SortedCell | None:
    """The model's strongest writers by one measure, in words; None where it was not measured.

    What is erased stands with means removed where that was measured, and sorts by the share of the most erased.
    """
    writers = [("", writers_by_rank(model.tables))]
    points = strip_points(writers, measure, centred=measure is ERASED)
    points = points if len(points) else strip_points(writers, measure)
    strongest = []
    for row in strongest_points(points, measure, _NAMED_WRITERS).itertuples():
        kept = f"{number(row.written)}\u00a0→\u00a0{number(row.remaining)}"
        strongest.append(
            f"{row.writer}\u00a0{number(row.value)} ({kept})" if measure is ERASED else f"{row.writer}\u00a0{kept}"
        )
    shown = (", ".join(strongest) or "none") if len(points) else None
    if shown is None or measure is not ERASED:
        return shown
    return SortedCell(escape(shown), float(points["value"].max()))


def texts_line(models: Sequence[ModelTables], sweep: Manifest | None) -> str:
    """Whether the models read the same text, in a sentence; nothing where that is not known, or for one model."""
    abouts = [model.about for model in models]
    read = corpora_read(abouts, display_names(models)) if len(models) > 1 else {}
    if not read:
        return ""
    listed = "; ".join(f"{corpus}: {', '.join(readers)}" for corpus, readers in read.items())
    if of_sweep(sweep, "corpus") == OWN:
        return f"Each model read its own training mix ({listed})."
    if len(read) > 1:
        return f"Not all models read the same text ({listed})."
    if any(len({measured_with(model, key) for model in models}) > 1 for key in _ALIKE):
        return ""
    if all(READY_TOKENS in (about.corpus or "") for about in abouts):
        return f"All models read the same {READY_TOKENS}, {next(iter(read))}."
    return f"All models read the same text, {next(iter(read))}, each through its own tokenizer."


def notices(models: Sequence[ModelTables], sweep: Manifest | None) -> list[str]:
    """What to mind when comparing: where protocols differ, what failed, and models of the sweep that are not on the page."""
    warnings = protocol_warnings(models, display_names(models))
    shown = {model.about.name for model in models}
    absent = [entry.name for entry in sweep.models if entry.name not in shown] if sweep else []
    warnings += [f"Not on this page, though in the sweep: {', '.join(absent)}."] if absent else []
    return warnings if models else [*warnings, "There are no models in this sweep."]
