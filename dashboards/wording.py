"""Numbers and protocols in plain words: what was measured, and warnings where models differ in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from erasure_sweep.dashboards.model_names import is_checkpoint, series_of
from erasure_sweep.workers.manifest import Manifest, ManifestEntry
from erasure_sweep.workers.tables.facts.erased_writers import ErasedWriter
from erasure_sweep.workers.tables.facts.erasers import broad_erasers, significant_erasures
from erasure_sweep.workers.tables.facts.erasure import NOTICEABLE, largest_share
from erasure_sweep.workers.tables.facts.verified import LATER
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Tables

OWN = "own"
"""The value of the config's ``corpus`` by which each model reads the mix that it was trained on."""
LATER_NAME = "all later"
"""What the sum of all heads of later layers is called."""
GROWS_TO = "\u00a0→\u00a0"
_MISSING = "—"
_SPELLED_OUT = 6
_NAMED_HEADS = 6
_MOST_LISTED = 8
_WORTH_EXPLAINING = 0.05
"""From this difference on it is said why two shares of a writer differ."""
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def number(value: object, digits: int = 2) -> str:
    """A number for reading, with a true minus sign; a dash where it is missing."""
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return _MISSING
    shown = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown.replace("-", "−")


def interval(low: object, high: object, digits: int = 2) -> str:
    """Ends of an interval, ``[−0.65, −0.57]``; nothing where there is none."""
    ends = [number(end, digits) for end in (low, high)]
    return "" if _MISSING in ends else f"[{ends[0]}, {ends[1]}]"


def with_interval(value: object, low: object, high: object, digits: int = 2) -> str:
    """A number and its interval, ``−0.61 [−0.65, −0.57]``; the number alone where there is no interval."""
    return f"{number(value, digits)} {interval(low, high, digits)}".rstrip()


def percent(share: object) -> str:
    """A share for reading: 80 %, in one piece."""
    if not isinstance(share, int | float | np.number) or not np.isfinite(share):
        return _MISSING
    return f"{number(100 * share, 0)}\u00a0%"


def amount(value: object) -> str:
    """A count for reading: 912, 98,304, 3.2 million; words such as ``8 / 16``, of sweeps that differ, as they are."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return _MISSING
    if value < 1e6:
        return f"{value:,.0f}"
    rounded = float(f"{value:.3g}")
    size, name = next((size, name) for size, name in _LARGE if rounded >= size)
    return f"{rounded / size:,.10g} {name}"


def rough(value: float) -> str:
    """A count with no more than one decimal of its unit: 912, 65,536, 4.2 million."""
    size, name = next((unit for unit in _LARGE if value >= unit[0]), (1.0, ""))
    return f"{round(value / size, 1):,.10g} {name}".rstrip()


def between(low: float, high: float) -> str:
    """Two counts, ``2.1 and 4.2 million``: the unit once where they share it."""
    ends = [rough(low), rough(high)]
    unit = ends[1].partition(" ")[2]
    return f"{ends[0].removesuffix(f' {unit}') if unit else ends[0]} and {ends[1]}"


def listed(words: Sequence[str], most: int | None = None) -> str:
    """Words in a row for reading, ``a, b and c``; of more than ``most`` the first and how many more there are."""
    if most is not None and len(words) > most:
        words = [*words[:most], f"{amount(len(words) - most)} more"]
    *before, last = [*words] or [_MISSING]
    return f"{', '.join(before)} and {last}" if before else last


def first_of(heads: Sequence[str]) -> str:
    """The first few of many heads, and how many more there are."""
    more = len(heads) - _NAMED_HEADS
    return ", ".join(heads[:_NAMED_HEADS]) + (f" and {more} more" if more > 0 else "")


def nothing_erased(models: Iterable[Tables]) -> str:
    """That nothing clear of chance was found, and the largest that was measured; nothing where nothing was."""
    shares = [largest for tables in models if (largest := largest_share(tables)) is not None]
    if not shares:
        return ""
    writer, share = max(shares, key=lambda found: found[1])
    most = f"the most is {number(share)}, of {writer}" if share > 0 else "later heads add to each"
    return f"nothing clear of chance: {most}."


def erased_all_the_same(tables: Tables) -> str:
    """What single heads take out beyond chance, which the sum over all heads can hide; nothing where they do not."""
    pairs, broad = significant_erasures(tables), broad_erasers(tables)["eraser"].astype(str).tolist()
    sentences = []
    if pairs:
        writer, eraser, share = pairs[0]
        many = f"{amount(len(pairs))} pairs of a writer and a later head are" if len(pairs) > 1 else "One pair is"
        sentences = [
            f"{many} significant: {eraser} takes {number(share)} out of {writer} on the direct path"
            f"{', the most' if len(pairs) > 1 else ''}."
        ]
    if broad:
        sentences.append(f"Broad erasers, which take out of most earlier heads: {first_of(broad)}.")
    return " ".join(sentences)


def taken_out_and_written_back(written: float, remaining: float, erased: float) -> str:
    """Why a writer does not end as what later heads take out would leave it; nothing where it nearly does.

    Args:
        written, remaining: in the stream where it writes and at the end.
        erased: what later heads take out over all attention paths.
    """
    back = remaining - written + erased
    if not abs(back) >= _WORTH_EXPLAINING:  # NaN neither
        return ""
    by_reading = (
        f"{number(erased)} of it is taken out" if erased >= 0 else f"Heads that read it add {number(-erased)} of it"
    )
    others = (
        f"{number(back)} is written {'back' if erased > 0 else 'along it'}"
        if back > 0
        else f"{number(-back)} is written against it otherwise, by MLPs or by heads that read others"
    )
    return f"{by_reading} and {others}: {number(written)} where it writes, {number(remaining)} at the end."


def means_kept(one: ErasedWriter) -> str:
    """What is erased of a writer with means kept, in brackets, where that is another number."""
    return f" ({number(one.kept)} with means kept)" if abs(one.kept - one.share.value) >= NOTICEABLE else ""


def written_and_remaining(one: ErasedWriter) -> str:
    """What was written of a writer and what remains; why that is not the difference that erasing makes; what is diluted."""
    if not np.isfinite([one.written, one.remaining]).any():
        return "written → remaining: not measured"
    said = f"written → remaining: {number(one.written)}{GROWS_TO}{number(one.remaining)}"
    if one.written_back >= _WORTH_EXPLAINING:
        said += f" ({number(one.share.value)} taken out and {number(one.written_back)} written back)"
    if one.written_back <= -_WORTH_EXPLAINING:
        said += f" ({number(-one.written_back)} of it lost for other reasons)"
    return said + (f"; diluted {number(one.diluted)}" if np.isfinite(one.diluted) else "")


def eraser_name(label: str) -> str:
    """A head or layer by its label, a named group of many heads by its ends."""
    heads = label.split("+")
    if len(heads) > _SPELLED_OUT:
        return f"{heads[0]}+…+{heads[-1]} ({len(heads)} heads)"
    return LATER_NAME if label == LATER else label


def of_sweep(sweep: Manifest | None, key: str) -> Any:
    """A field of the sweep's config, or of the manifest itself; None where neither has it."""
    if sweep is None:
        return None
    value = getattr(sweep.config, key, None)
    return getattr(sweep, key, None) if value is None else value


def measured_with(model: ModelTables, key: str) -> Any:
    """What a model was measured with, as its entry in the manifest or else its own sweep has it; None if neither does."""
    value = getattr(model.about, key) if key in model.about.model_fields_set else None
    return of_sweep(model.sweep, key) if value is None else value


def model_line(about: ManifestEntry) -> str:
    """A model's shape in one line, and how far it was trained where that is known."""
    kind = "attention only, " if about.attn_only else ""
    depth = f"{amount(about.n_layers)} layer{'' if about.n_layers == 1 else 's'}"
    return (
        f"{depth} of {amount(about.n_heads)} heads ({kind}width {amount(about.d_model)}), "
        f"{amount(about.n_params)} parameters{_trained(about)}."
    )


def _trained(about: ManifestEntry) -> str:
    tokens, steps = about.training_tokens, about.training_steps
    if tokens is None and steps is None:
        return ""
    if not tokens and not steps:
        return ", before any training"
    if tokens is None:
        return f", trained for {amount(steps)} steps"
    return f", trained on {amount(tokens)} tokens" + (f" in {amount(steps)} steps" if steps else "")


def measured_line(about: ManifestEntry | None, sweep: Manifest | None) -> str:
    """What was measured, in one line: prompts, length, positions, corpus, seed, precision, version.

    Of models that each read their own corpus, ``about`` says which; without it that they did is all there is to say.
    """
    prompts = (about and about.n_prompts) or of_sweep(sweep, "prompts")
    positions, seed, dtype = (of_sweep(sweep, key) for key in ("positions", "seed", "dtype"))
    but_first = " but the first" if str(of_sweep(sweep, "first_position")) == "False" else ""
    where = f"every position{but_first}" if positions in ("all", None) else f"{positions} positions of each"
    up_to = "up to " if str(of_sweep(sweep, "pack")) == "False" else ""
    tokens = f" ({amount(about.n_tokens)} tokens)" if about and about.n_tokens is not None else ""
    facts = [
        f"Measured on {amount(prompts)} prompts of {up_to}{amount(of_sweep(sweep, 'seq_len'))} tokens, {where}{tokens}",
        _corpus(about, of_sweep(sweep, "corpus")),
        f"seed {_MISSING if seed is None else seed}",
    ]
    facts += [str(dtype)] if dtype else []
    facts += [f"on {sweep.device_type}"] if sweep and sweep.device_type else []
    facts += [f"erasure-sweep {sweep.version}"] if sweep and sweep.version else []
    return ", ".join(facts) + "."


def _corpus(about: ManifestEntry | None, of_all: str | None) -> str:
    """The corpus that a model read, or without it all models; ``of_all`` is what the sweep's config says."""
    own, name = of_all == OWN, str((about and about.corpus_name) or "")
    description = (about and about.corpus) or of_all
    described = (name if description == OWN else str(description or "")) or name
    if own and not described:
        return "each model's own training mix"
    # a corpus' description begins with its name
    named = described if described.startswith(name) else f"{name} ({described})"
    return f"corpus {named or _MISSING}" + (", its own training mix" if own else "")


def protocol_warnings(models: Sequence[ModelTables], names: Sequence[str]) -> list[str]:
    """Where models were measured differently or not in full, so that a difference between them may not be theirs."""
    abouts = [model.about for model in models]
    warnings = [
        f"{name} was not measured in full ({unfinished(about)})."
        for name, about in zip(names, abouts, strict=True)
        if not about.is_finished
    ]
    corpora = corpora_read(abouts, names)
    if len(corpora) > 1:
        read = "; ".join(f"{corpus}: {', '.join(readers)}" for corpus, readers in corpora.items())
        warnings.append(
            f"Models were measured on different corpora ({read}): differences between them may come from the text."
        )
    for key, how in (
        ("n_prompts", "on different numbers of prompts"),
        ("n_tokens", "on different numbers of measured tokens"),
        *([] if len(corpora) > 1 else [("corpus", "on different corpora")]),
        ("seq_len", "on different prompt lengths"),
        ("pack", "on packed prompts and on whole documents"),
        ("positions", "on different positions"),
        ("first_position", "with and without position 0"),
        ("seed", "with different seeds"),
        ("dtype", "in different precisions"),
        ("tau", "with different τ"),
        ("ln", "with another LayerNorm scale in patched runs"),
        ("device_type", "on different devices"),
        ("version", "with different versions of erasure-sweep"),
        ("git_commit", "with different commits of erasure-sweep"),
    ):
        known = {name: measured_with(model, key) for name, model in zip(names, models, strict=True)}
        if key == "corpus":  # behind the first clause stands how prompts were made of it, which goes with the tokenizer
            known = {name: value and str(value).partition(";")[0] for name, value in known.items()}
        values = {name: value for name, value in known.items() if value is not None}
        if len({str(value) for value in values.values()}) > 1:
            warnings.append(f"Models were measured {how}: {_who(key, values)}.")
    prints = {about.corpus_fingerprint for about in abouts if about.corpus_fingerprint}
    if len(prints) > 1:
        warnings.append(
            "Models did not read the same tokens: their tokenizers or their texts differ, so compare shapes, not "
            "decimals."
        )
    return warnings


def _who(key: str, values: dict[str, Any]) -> str:
    """What each model has of a field; of many models each value and the first that have it."""
    if len(values) <= _MOST_LISTED:
        return ", ".join(f"{name} {_in_words(key, value)}" for name, value in values.items())
    having: dict[str, list[str]] = {}
    for name, value in values.items():
        having.setdefault(_in_words(key, value), []).append(name)
    return "; ".join(f"{value}: {listed(names, _MOST_LISTED // 2)}" for value, names in having.items())


def corpora_read(abouts: Sequence[ManifestEntry], names: Sequence[str]) -> dict[str, list[str]]:
    """Corpora by name with those that read each; nothing where it is not known of every model.

    Checkpoints of a model that read the same stand together, by the name of their model.
    """
    if not all(about.corpus_name for about in abouts):
        return {}
    bases: dict[str, set[str]] = {}
    for about in abouts:
        bases.setdefault(series_of(about), set()).add(str(about.corpus_name))
    found: dict[str, list[str]] = {}
    for name, about in zip(names, abouts, strict=True):
        series = series_of(about)
        shown = series if is_checkpoint(about) and len(bases[series]) == 1 else name
        readers = found.setdefault(str(about.corpus_name), [])
        readers += [] if shown in readers else [shown]
    return found


def unfinished(about: ManifestEntry) -> str:
    """How a model that was not measured in full ended, and why where that is known."""
    return about.state.lower() + (f": {about.reason}" if about.reason else "")


def _in_words(key: str, value: object) -> str:
    # a seed is a name, not a quantity
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and key not in ("seed", "tau")
    return amount(value) if is_count else str(value)
