"""An audit: which bars of a direct logit attribution (DLA) survive, on a model and prompts that somebody has at hand.

It runs in the process that asks, needs torch alone, and leaves nothing behind: no sweep, no Ray, no MLflow, no folder.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasure_sweep.workers.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import torch

    from erasure_sweep.dashboards.audit.view import AuditView, Pattern
    from erasure_sweep.workers.measures.audit.session import Session
    from erasure_sweep.workers.models.model_in_memory import HeldModel
    from erasure_sweep.workers.models.tokenizer import Tokenizer

DONORS = 8
"""How many texts take a component's place in turn, where the baseline is ``resample``."""


def audit(
    model: Any,
    prompts: Any,
    answer_tokens: Any = None,
    incorrect_tokens: Any = None,
    pos: int | Sequence[int] = -1,
    baseline: str = "mean",
    *,
    corrupted: Any = None,
    donors: int = DONORS,
    reference: str | Sequence[int] | None = None,
    tokenizer: Any = None,
    prepend_bos: bool = True,
    sweep: str | Path | None = None,
    experiment: str | None = None,
    tracking_uri: str | None = None,
    rerun_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Audit direct logit attribution on a model's prompts: what each component's bar says, and what really arrives.

    Args:
        model: a ``TransformerBridge``, a ``HookedTransformer``, a model of transformers, or the name, folder or file of one.
            It stays as it is.
        prompts: a text, token ids, several of either (lengths may differ), mappings with ``prompt``, ``answer``, ``against``,
            ``corrupted`` and ``pos``, or a generated set such as ``"ioi:20"``.
        answer_tokens: what should follow: a string that is one token, an id, or several; of several prompts a list of these.
            By default the model's most likely token.
        incorrect_tokens: what its logit is set against, in the same way; by default the most likely token that is no answer.
        pos: index of the token behind which the model is asked; a list has one for each prompt.
        baseline: what takes the place of a component that is ablated: ``mean`` over the reference text, ``resample`` (what
            it writes in parts of that text, one after the other), ``corrupted``, ``zero``, or a file: the mean over its text.
        corrupted: for that, a prompt for each, with as many tokens.
        donors: how many parts ``resample`` takes.
        reference: text or token ids; by default a text that comes along, of which 1,024 tokens count.
        tokenizer: of transformers, where the model came without one.
        prepend_bos: whether texts begin with the tokenizer's BOS.
        sweep: folder of a finished sweep of this model: what it says of a component stands beside its bar.
        experiment: the same from an MLflow experiment, in the store that ``tracking_uri`` or the environment names.
        rerun_bytes: bound on the widest activations of reruns that go together, by default 256 MiB; memory is a few times that.
        progress: told how many of how many prompts are done; by default a notebook shows it.

    Raises:
        UsageError: prompts, answers or model do not fit each other; one clear line.
        DataError: the model cannot be measured, or its files not be read.
    """
    from erasure_sweep.workers.corpora.reference import reference_text
    from erasure_sweep.workers.measures.audit.baselines import REFERENCE_TOKENS, Baseline, Reference
    from erasure_sweep.workers.measures.audit.questions import Reader
    from erasure_sweep.workers.measures.audit.session import Session
    from erasure_sweep.workers.measures.audit.tasks import make_task
    from erasure_sweep.workers.measures.interventions.replaced_writer import RERUN_BYTES

    reference, baseline = _reference(reference, baseline)
    if corrupted is not None and baseline != "corrupted":
        raise UsageError(f"corrupted prompts are of baseline 'corrupted', and {baseline!r} was asked for")
    held = hold(model)
    config, tokens_by = held.config, _tokenizer(held, tokenizer)
    reader = Reader(tokens_by, config.d_vocab, config.n_ctx, prepend_bos)
    if isinstance(prompts, str) and (made := make_task(prompts, tokens_by)) is not None:
        prompts = made
    questions = reader.read(prompts, answer_tokens, incorrect_tokens, pos, corrupted)
    text = reference_text() if reference is None else reference
    source = None
    if not isinstance(text, str):
        source = Reference(tuple(int(one) for one in text), None)
    elif tokens_by is not None:
        ids = tokens_by.encode_batch([text])[0][:REFERENCE_TOKENS]
        source = Reference(tuple(ids), tokens_by.bos_id if prepend_bos else None)
    session = Session(held.lean, questions, Baseline(held.lean, baseline, source, donors), rerun_bytes or RERUN_BYTES)
    known = _known(sweep, experiment, tracking_uri, held)
    show = progress or _notebook_progress()
    found = session.effects(lambda done: show(done, len(questions)))
    return Audit(held.name, session, found, tokens_by, known)


class Audit:
    """What an audit found. In a notebook it shows its figure."""

    def __init__(
        self,
        model: str,
        session: Session,
        found: Sequence[Any],
        tokenizer: Tokenizer | None,
        known: Mapping[str, str],
    ) -> None:
        import pandas as pd

        from erasure_sweep.workers.measures.audit.summary import component_rows, mean_of, mediation_rows
        from erasure_sweep.workers.records import TrustThresholds

        self.model = model
        self._session, self._found, self._tokenizer, self._known = session, found, tokenizer, dict(known)
        layout = session.model.config.layout
        self.table: pd.DataFrame = pd.DataFrame(component_rows(layout, found, TrustThresholds()))
        """A row for each component, in the order of the stream; ``docs/audit.md`` explains the columns, ``attrs["units"]`` has
        their units."""
        self.table.attrs["units"] = units_of(self.table)
        self.mediation: pd.DataFrame = pd.DataFrame(mediation_rows(layout, found))
        """A row for each component and everything behind it: what that adds to its bar, or takes from it."""
        self.mediation.attrs["units"] = units_of(self.mediation)
        import numpy as np

        difference = mean_of(np.array([one.logit_difference for one in found]))
        self.logit_difference: float = float(difference.value)
        """Of the answers over what is against them, averaged over the prompts: what the bars add up to."""
        self._difference = tuple(float(end) for end in difference)

    def figure(self) -> go.Figure:
        """The bars that everyone draws, with what really arrives beside each."""
        from erasure_sweep.dashboards.audit.bars import bars_figure

        return bars_figure(self.view)

    def waterfall(self, component: str) -> go.Figure:
        """From a component's bar to what arrives: who takes how much back.

        Raises:
            UsageError: there is no such component, or it is a bias, which nothing answers.
        """
        from erasure_sweep.dashboards.audit.waterfall import waterfall_figure
        from erasure_sweep.workers.errors import nearest

        known = self._session.model.config.layout.writers
        if component not in known:
            raise UsageError(f"no component {component!r} was ablated: {nearest(component, known)}")
        return waterfall_figure(self.view, component)

    def scatter(self) -> go.Figure:
        """Every component: what its bar says, and what ablating it does."""
        from erasure_sweep.dashboards.audit.scatter import scatter_figure

        return scatter_figure(self.view)

    def lens(self) -> go.Figure:
        """How the logit difference builds up along the stream: accumulated, and by the logit lens."""
        from erasure_sweep.dashboards.audit.lens import lens_figure

        return lens_figure(self.view)

    def patterns(self, *heads: str, prompt: int = 0) -> go.Figure:
        """Attention of some heads over the tokens of a prompt; by default of those with the largest bars and effects.

        Raises:
            UsageError: there is no such head or prompt.
        """
        from erasure_sweep.dashboards.audit.patterns import patterns_figure

        wanted = heads or tuple(self.view.heads)
        if not wanted:
            raise UsageError("no head matters here: name some, such as L0H1")
        return patterns_figure([(head, self._pattern(head, prompt)) for head in wanted])

    def ablate(self, *components: str) -> JointAblation:
        """Ablate several components together: backups answer only when all that they stand in for is gone.

        Raises:
            UsageError: there is no such component.
        """
        import pandas as pd

        from erasure_sweep.workers.measures.audit.summary import joint_effect, joint_rows

        members = [*dict.fromkeys(components)]
        found = self._session.joint(members)
        alone = self.table.set_index("component")["effect"][members].sum()
        table = pd.DataFrame(joint_rows(self._session.model.config.layout, members, found))
        return JointAblation(members, table, joint_effect(found), float(alone))

    def to_html(self, path: str | Path | None = None) -> str | None:
        """One self-contained page, figures first: written to a file, or returned."""
        from erasure_sweep.dashboards.audit.page import audit_page, write_audit_page

        if path is None:
            return audit_page(self.view)
        write_audit_page(self.view, Path(path))
        return None

    def to_json(self, path: str | Path | None = None) -> str | None:
        """Everything that was measured, as JSON: written to a file, or returned."""
        from erasure_sweep.workers.storage.whole_file import whole_file

        view = self.view
        content = {
            "model": self.model,
            "baseline": view.baseline,
            "question": view.question,
            "prompts": list(view.prompts),
            "logit_difference": dict(zip(("value", "low", "high"), map(_or_none, self._difference), strict=True)),
            **{name: _records(getattr(self, name)) for name in ("table", "mediation", "states")},
        }
        text = json.dumps(content, indent=1, allow_nan=False)
        if path is None:
            return text
        with whole_file(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return None

    @property
    def states(self) -> pd.DataFrame:
        """A row for each state of the stream: the logit difference accumulated until there, and by the logit lens."""
        if not hasattr(self, "_states"):
            import pandas as pd

            from erasure_sweep.workers.measures.audit.summary import state_rows

            lens = self._session.lens()
            predicted = self._texts(lens[0].predicted.tolist()) if len(lens) == 1 else None
            self._states = pd.DataFrame(state_rows(self._session.model.config.layout, lens, predicted))
        return self._states

    @property
    def view(self) -> AuditView:
        """What the figures are made from."""
        from erasure_sweep.dashboards.audit.view import AuditView

        if not hasattr(self, "_view"):
            n_donors = len(self._found[0].direct)
            self._view = AuditView(
                model=self.model,
                baseline=self._session.baseline.kind,
                n_prompts=len(self._found),
                n_donors=n_donors,
                question=self._question(),
                prompts=["".join(self._texts(question.tokens)) for question in self._session.questions],
                components=self.table,
                mediation=self.mediation,
                states=self.states,
                logit_difference=self._difference,  # type: ignore[arg-type]
                pattern=self._pattern,
                known=self._known,
            )
        return self._view

    @property
    def sentence(self) -> str:
        """Which bars hold and which do not, in words."""
        from erasure_sweep.dashboards.audit.bars import bars_sentence

        return bars_sentence(self.view)

    def __repr__(self) -> str:
        return f"<audit of {self.model}: {self.sentence}>"

    def _repr_html_(self) -> str:
        """The figure, for notebooks; the script that draws it is in it."""
        return str(self.figure().to_html(full_html=False, include_plotlyjs=True))

    def _pattern(self, head: str, prompt: int) -> Pattern:
        from erasure_sweep.dashboards.audit.view import Pattern

        questions = self._session.questions
        if not 0 <= prompt < len(questions):
            raise UsageError(f"there is no prompt {prompt}: they are counted from 0 to {len(questions) - 1}")
        return Pattern(self._texts(questions[prompt].tokens), self._session.pattern(head, prompt))

    def _question(self) -> str:
        """Which logits are set against each other."""
        pairs = {(one.answers, one.against) for one in self._found}
        if len(pairs) > 1:
            return "logit of the answer − logit of what is against it"
        ((answers, against),) = pairs
        sides = [" and ".join(map(repr, self._texts(ids))) for ids in (answers, against)]
        return f"logit of {sides[0]} − {sides[1]}"

    def _texts(self, ids: Sequence[int]) -> list[str]:
        if self._tokenizer is None:
            return [f"#{token_id}" for token_id in ids]
        return self._tokenizer.token_strings(ids)


class JointAblation:
    """Several components ablated together."""

    def __init__(
        self, members: Sequence[str], table: pd.DataFrame, effect: tuple[float, float, float], alone: float
    ) -> None:
        self.members, self.table = members, table
        self.effect, self.effect_low, self.effect_high = effect
        """How much the logit difference falls, with its interval."""
        self.alone = alone
        """What it falls by where each is ablated alone, summed; where that is less than ``effect``, others stand in."""

    def figure(self) -> go.Figure:
        """What DLA says of the members, and who answers when all are gone."""
        from erasure_sweep.dashboards.audit.joint import joint_figure

        return joint_figure(self.members, self.table, (self.effect, self.effect_low, self.effect_high), self.alone)

    def __repr__(self) -> str:
        together = " + ".join(self.members)
        return f"<{together} ablated at once: {self.effect:.2f} logits; the sum of each alone: {self.alone:.2f}>"

    def _repr_html_(self) -> str:
        return str(self.figure().to_html(full_html=False, include_plotlyjs=True))


def prompt_set(named: str) -> Any:
    """A set of prompts: a task such as ``ioi:20``, as ``audit`` takes it, or the rows of a file.

    Raises:
        UsageError: there is neither.
        DataError: the file cannot be read.
    """
    from erasure_sweep.sweep.prompt_sets import read_prompt_set
    from erasure_sweep.workers.measures.audit.tasks import is_task

    return named if is_task(named) else read_prompt_set(Path(named).expanduser())


def _reference(given: Any, baseline: str) -> tuple[Any, str]:
    """The reference text, and the baseline: a file is a reference text for means."""
    from erasure_sweep.workers.measures.audit.baselines import KINDS
    from erasure_sweep.workers.storage.small_files import read_small_file

    path = Path(baseline).expanduser()
    if baseline in KINDS or not path.is_file():
        return given, baseline
    try:
        return read_small_file(path).decode("utf-8"), "mean"
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no text that can be read: {getattr(error, 'strerror', None) or error}") from error


def _notebook_progress() -> Callable[[int, int], None]:
    """A line that counts, where somebody sees it and there is something to count."""
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        if total > 1:
            sys.stderr.write(f"\r{done}/{total} prompts" + "\n" * (done == total))
            sys.stderr.flush()

    return show


def units_of(table: pd.DataFrame) -> dict[str, str]:
    """The unit of each column of numbers."""
    ratios = {"share", "r", "size"}
    numbers = table.select_dtypes("number").columns
    return {name: "ratio" if name.removesuffix("_low").removesuffix("_high") in ratios else "logit" for name in numbers}


def hold(model: Any, dtype: torch.dtype | None = None) -> HeldModel:
    """A model as audits take it, read and checked once for as many as there are.

    Args:
        model: as ``audit`` takes it.
        dtype: of the forward, by default float64 for a model of transformers in float64, else float32.

    Raises:
        UsageError: there is no such model.
        DataError: it cannot be measured, or its files not be read.
    """
    from erasure_sweep.sweep.run import staging_folder
    from erasure_sweep.workers.models.model_in_memory import HeldModel, hold_named
    from erasure_sweep.workers.models.model_in_memory import hold as hold_in_memory

    if isinstance(model, HeldModel):
        return model
    if isinstance(model, str | Path):
        return hold_named(str(model), staging_folder(None), dtype)
    return hold_in_memory(model, dtype)


def _tokenizer(held: HeldModel, given: Any) -> Tokenizer | None:
    from erasure_sweep.workers.models.tokenizer import load_tokenizer, tokenizer_of

    chosen = held.tokenizer if given is None else given
    if chosen is None:
        return None
    return load_tokenizer(str(chosen)) if isinstance(chosen, str | Path) else tokenizer_of(chosen)


def _known(
    sweep: str | Path | None, experiment: str | None, tracking_uri: str | None, held: HeldModel
) -> dict[str, str]:
    """What a sweep, of a folder or an experiment, says of the model's components."""
    if sweep is None and experiment is None:
        return {}
    from erasure_sweep.workers.storage.temporary_folder import TemporaryFolder
    from erasure_sweep.workers.tables.facts.erased_writers import erased_writers_of
    from erasure_sweep.workers.tables.sweep_folder import read_out

    with closing(TemporaryFolder()) as temporary:
        folders = [] if sweep is None else [Path(sweep)]
        folders += [] if experiment is None else _downloaded(experiment, tracking_uri, temporary.path)
        found = [model for folder in folders for model in read_out(folder) if model.about.hash == held.hash]
        models = [(model, erased_writers_of(model.tables)) for model in found]
    if not models:
        raise UsageError(
            f"{sweep or experiment} has no model with these weights: an audit beside a sweep must be of one of its models"
        )
    known = {}
    for model, writers in models:
        for one in writers:
            by = f", most of it by {', '.join(one.erasers[:3])}" if one.erasers else ""
            known[one.writer] = (
                f"On {model.about.corpus_name or 'its corpus'} {one.share.value:.0%} of it is erased{by}"
            )
    return known


def _downloaded(experiment: str, tracking_uri: str | None, to: Path) -> list[Path]:
    from erasure_sweep.sweep.tracking.downloads import download_experiment
    from erasure_sweep.sweep.tracking.store_address import store_uri

    return download_experiment(store_uri(tracking_uri), experiment, to / "experiment")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: _or_none(value) for key, value in row.items()} for row in table.to_dict("records")]


def _or_none(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value
