"""What opens the page of a model, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from erasure_sweep.dashboards.html.render import render
from erasure_sweep.dashboards.model.trust import trust_line
from erasure_sweep.dashboards.model.verify.verdicts import nothing_verified, verdict_list
from erasure_sweep.dashboards.wording import (
    erased_all_the_same,
    first_of,
    measured_line,
    model_line,
    nothing_erased,
    number,
    taken_out_and_written_back,
    unfinished,
)
from erasure_sweep.workers.manifest import Manifest
from erasure_sweep.workers.tables.facts.erasure import clearly_erased, erasers_of, is_ranked
from erasure_sweep.workers.tables.facts.verified import was_verified
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from erasure_sweep.workers.tables.values import Tables, numeric


def model_intro(model: ModelTables, sweep: Manifest | None, writers: pd.DataFrame) -> Markup:
    about = model.about
    notice = "" if about.is_finished else f"This model was not measured in full ({unfinished(about)})."
    return render(
        "model_intro.html.j2",
        unfinished=notice,
        paragraphs=(_headline(model, writers), nothing_verified(model), trust_line(model)),
        verdicts=verdict_list(model),
        model=model_line(about),
        measured=measured_line(about, sweep),
    )


def _headline(model: ModelTables, writers: pd.DataFrame) -> str:
    erased = clearly_erased(model.tables) if is_ranked(writers) else writers.iloc[:0]
    sentences = [_most_erased_words(model.tables, erased)] if len(erased) else []
    if not sentences and is_ranked(writers) and (nothing := nothing_erased([model.tables])):
        sentences = [f"Erased: {nothing}"]
    sentences += [all_the_same] if (all_the_same := erased_all_the_same(model.tables)) else []
    sentences += _most_opposed_words(writers, str(erased["writer"].iloc[0]) if len(erased) else None)
    if not sentences and was_verified(model.tables):
        # without a scan there is nothing to say of all writers
        return ""
    return " ".join(sentences) or "No writer was measured in this model."


def _most_erased_words(tables: Tables, erased: pd.DataFrame) -> str:
    """What is erased most, means kept, the first of these rows of ``writers``, in a sentence."""
    columns = ("erased", "erased_centred", "written", "remaining")
    share, centred, written, remaining = (numeric(erased, column)[0] for column in columns)
    writer = str(erased["writer"].iloc[0])
    named = erasers_of(tables, writer)
    by = f" (erasers: {first_of(named)})" if named else ""
    removed = f"; with means removed it is {number(centred)}" if np.isfinite(centred) else ""
    explained = taken_out_and_written_back(written, remaining, share)
    ends = f"It goes from {number(written)} where it writes to {number(remaining)} at the end."
    return (
        f"Most erased: {writer}. Later heads take out {number(share)} of it because they, or heads between, read it{by}. "
        f"Means are kept here{removed}. "
        f"{explained or ends}"
    )


def _most_opposed_words(writers: pd.DataFrame, most_erased: str | None) -> list[str]:
    """What is opposed most; in a few words where the sentence before was of the same writer."""
    opposed = numeric(writers, "opposed")
    if not np.isfinite(opposed).any():
        return []
    row = int(np.nanargmin(opposed))
    against = f"later components opposed {number(-opposed[row])} in sum"
    if str(writers["writer"].iloc[row]) == most_erased:
        return [f"It is also the most opposed: {against}."]
    written, remaining = numeric(writers, "written")[row], numeric(writers, "remaining")[row]
    return [
        f"Most opposed: {writers['writer'].iloc[row]}, with {number(written)} of its output in the stream where it "
        f"writes and {number(remaining)} at the end ({against})."
    ]
