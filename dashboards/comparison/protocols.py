"""How each model was measured: what it read, where, with what, and in which of these the models differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from markupsafe import Markup

from erasure_sweep.dashboards.cards import card
from erasure_sweep.dashboards.comparison.view import COMPARISON, ComparisonView
from erasure_sweep.dashboards.html.links import Home, link
from erasure_sweep.dashboards.html.parts import HtmlColumn, HtmlTable
from erasure_sweep.dashboards.model_names import display_names
from erasure_sweep.dashboards.wording import OWN, amount, listed, measured_with, of_sweep
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.sweep_folder import ModelTables

_DIGITS = 10
_KEPT = ("corpus_name", "n_prompts", "positions", "version")
"""Fields that have a column also where all models are alike in them."""


class ProtocolField(NamedTuple):
    """Something that models can be measured differently in.

    Attributes:
        key: what a model's entry of the manifest calls it; ``of_sweep`` what the sweep calls it, if something else.
        written: the value in words.
    """

    key: str
    heading: str
    title: str
    written: Callable[[Any], str] = str
    of_sweep: str | None = None


def _positions(value: object) -> str:
    return "all" if value == "all" else amount(value)


def _whether(yes: str, no: str, value: object) -> str:
    return {"True": yes, "False": no}.get(str(value), str(value))


def _stages(value: object) -> str:
    listed = [str(stage) for stage in value] if isinstance(value, list | tuple) else [str(value)]
    return ", ".join(listed) or "none"


def _digits(value: object) -> str:
    return " / ".join(part[:_DIGITS] for part in str(value).split(" / "))


_FIRST, _PACKED = partial(_whether, "measured", "left out"), partial(_whether, "yes", "no")

FIELDS = (
    ProtocolField("corpus_name", "corpus", "the text that was read", of_sweep="corpus"),
    ProtocolField(
        "corpus_fingerprint", "fingerprint", "of the tokens read: with the same digits they are the same", _digits
    ),
    ProtocolField("n_prompts", "prompts", "how many prompts", amount, "prompts"),
    ProtocolField("seq_len", "length", "tokens of a prompt", amount),
    ProtocolField(
        "pack", "packed", "whether prompts are packed to that length; else each is a document, or shorter", _PACKED
    ),
    ProtocolField("positions", "positions", "how many positions of each prompt are measured", _positions),
    ProtocolField("first_position", "position 0", "whether the first position of a prompt is measured", _FIRST),
    ProtocolField("n_tokens", "tokens measured", "measured positions of all prompts", amount),
    ProtocolField("seed", "seed", "what prompts and positions are drawn with"),
    ProtocolField("dtype", "precision", "of the numbers that the model computes with"),
    ProtocolField("device_type", "device", "what it computes on"),
    ProtocolField("ln", "LayerNorm", "its scale in patched runs: that of the run as it is, or computed anew"),
    ProtocolField("stages", "stages", "what is measured", _stages, "stage"),
    ProtocolField("tau", "τ", "the share of a writer's output from which on a head is an eraser"),
    ProtocolField("version", "version", "of erasure-sweep"),
    ProtocolField("git_commit", "commit", "of erasure-sweep's code, where it ran from a working tree", _digits),
    ProtocolField("schema_version", "schema", "of the tables"),
)


class MeasuringProtocol(NamedTuple):
    """How a model was measured: by field in words, None where that is not known."""

    model: str
    values: dict[str, str | None]


def protocols(models: Sequence[ModelTables], sweep: Manifest | None) -> list[MeasuringProtocol]:
    """What each model says of itself, else what the sweep says of all."""
    named = zip(display_names(models), models, strict=True)
    return [
        MeasuringProtocol(name, {field.key: _words(field, model, sweep) for field in FIELDS}) for name, model in named
    ]


def _words(field: ProtocolField, model: ModelTables, sweep: Manifest | None) -> str | None:
    value = measured_with(model, field.key)
    value = of_sweep(sweep, field.of_sweep or field.key) if value is None else value
    if field.key == "corpus_name" and value == OWN:
        return "its own training mix"
    return None if value is None or value == "" else field.written(value)


def differing(found: Sequence[MeasuringProtocol]) -> list[ProtocolField]:
    """Fields in which models are known to differ."""
    values = {field: {one.values[field.key] for one in found} - {None} for field in FIELDS}
    return [field for field in FIELDS if len(values[field]) > 1]


def _alike(found: Sequence[MeasuringProtocol]) -> dict[ProtocolField, str]:
    """Fields of which the same is known of all models, with what that is."""
    values = {field: {one.values[field.key] for one in found} for field in FIELDS}
    return {field: value for field, of in values.items() if len(of) == 1 and (value := next(iter(of))) is not None}


@card(COMPARISON, "protocol", order=170)
def protocols_table(view: ComparisonView) -> HtmlTable:
    """A row per model; columns in which models differ say so, and what is unusual in them is bold.

    What is the same in all stands in a sentence, but for what it is that was read.
    """
    models, homes, sweep = view.models, view.homes, view.sweep
    found = protocols(models, sweep)
    apart, alike = differing(found), _alike(found)
    said_once = alike if len(found) > 1 else {}
    known = [
        field
        for field in FIELDS
        if any(one.values[field.key] is not None for one in found) and (field.key in _KEPT or field not in said_once)
    ]
    usual = {field: Counter(one.values[field.key] for one in found).most_common(1)[0][0] for field in apart}
    runs = any(home.run for home in homes.values())
    rows = []
    for one in found:
        home = homes.get(one.model, Home())
        cells = [
            _cell(one.values[field.key], bold=field in usual and one.values[field.key] != usual[field])
            for field in known
        ]
        rows.append(
            [link(home.page, one.model), *cells, *([link(home.run, "open") if home.run else None] if runs else [])]
        )
    return HtmlTable(
        "How each model was measured",
        _caption(found, apart, {field: value for field, value in said_once.items() if field not in known}),
        [
            HtmlColumn("model"),
            *(
                HtmlColumn(
                    f"{field.heading} (differs)" if field in apart else field.heading, field.title, width="narrow"
                )
                for field in known
            ),
            *([HtmlColumn("run", "in MLflow", width="narrow")] if runs else []),
        ],
        rows,
        empty="There are no models to compare.",
        filter_by="model or value",
    )


def _cell(value: str | None, bold: bool) -> str | None:
    return Markup("<strong>{}</strong>").format(value) if bold and value is not None else value


def _caption(
    found: Sequence[MeasuringProtocol], apart: Sequence[ProtocolField], alike: Mapping[ProtocolField, str]
) -> str:
    if len(found) < 2:
        return "What the numbers of this page rest on. — means not known."
    unknown = [
        field.heading
        for field in FIELDS
        if len({one.values[field.key] is None for one in found}) > 1 and field not in apart
    ]
    sentences = (
        f"Models differ in {listed([field.heading for field in apart])}: these columns are marked, with what few have in "
        "bold. Differences between such models may come from how they were measured."
        if apart
        else "All models were measured alike in everything that is listed here."
    )
    sentences += f" All: {'; '.join(f'{field.heading} {value}' for field, value in alike.items())}." if alike else ""
    return sentences + (f" Not known of every model: {listed(unknown)}." if unknown else "") + " — means not known."
