"""Staging: every model of a sweep is resolved with its corpus in the background process, before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import CheckpointsRequest, ModelRequest, list_checkpoints, resolve_model
from erasure_sweep.sweep.model_names import ListedModel, as_before, told_apart
from erasure_sweep.sweep.run import Run
from erasure_sweep.sweep.terminal.progress import Reporter
from erasure_sweep.workers.corpora.resolve_corpus import KNOWN_CORPORA, OWN
from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.checkpoints import names_several, split_point
from erasure_sweep.workers.name_clashes import passed_over
from erasure_sweep.workers.records import Resolved


class ModelStaging:
    """The models of a sweep on their way into the staging folder.

    Args:
        run: its config names models and corpus.
        background: resolves them, one after the other; which checkpoints there are comes first.
        refresh: ask the hub for what is staged as well.
    """

    def __init__(self, run: Run, background: HelperProcess, refresh: bool = False) -> None:
        config = self._config = run.config
        self._folder = run.staging
        self._background, self._refresh = background, refresh
        self._listed = [ListedModel.of(entry) for entry in config.models]
        specs = [listed.spec for listed in self._listed]
        self._expanding = {spec: self._expand(spec) for spec in specs if names_several(spec)}
        self._resolving = {spec: self._resolve(spec, spec) for spec in specs if spec not in self._expanding}

    def finish(self, reporter: Reporter, before: Mapping[str, str] | None = None) -> list[Resolved]:
        """Wait for the staged models, in the order of the config, checkpoints in the order of training.

        Args:
            reporter: hears of progress, and of what may surprise.
            before: the names that models have in OUT, by hash.

        Raises:
            SweepError: a model or the corpus cannot be had or does not fit.
            UsageError: two models cannot be told apart.
        """
        for line in _passed_over(self._config, self._listed):
            reporter.say(line)
        models = []
        listed: dict[str, ListedModel] = {}
        for entry in self._listed:
            for spec in self._specs(entry.spec, reporter):
                listed.setdefault(spec, entry)
        for spec, entry in listed.items():
            reporter.say(f"preparing {spec}")
            models.append(entry.named(self._resolving[spec].result()))
            for note in models[-1].notes:
                reporter.say(note)
        for key in _unread(self._config, self._listed, models):
            reporter.say(f"own_corpora: {key} is none of these models")
        models = _without_repeats(models, [entry.spec for entry in self._listed], reporter)
        labelled = {spec for spec, entry in listed.items() if entry.label is not None}
        models = as_before(told_apart(models, labelled), labelled, before or {})
        _refuse_twins(models)
        return models

    def _specs(self, named: str, reporter: Reporter) -> Sequence[str]:
        """The models that one entry of the config names, itself or checkpoints, all on their way."""
        if named not in self._expanding:
            return (named,)
        specs = self._expanding[named].result()
        reporter.say(f"{named}: {', '.join(specs)}")
        for spec in specs:
            if spec not in self._resolving:
                self._resolving[spec] = self._resolve(spec, named)
        return specs

    def _expand(self, spec: str) -> Future[tuple[str, ...]]:
        return self._background.submit(list_checkpoints, CheckpointsRequest(spec, self._folder, self._refresh))

    def _resolve(self, spec: str, named: str) -> Future[Resolved]:
        """Stage one model, ``named`` being what the config's entry names, itself or others with it."""
        config, own = self._config, self._config.own_corpora
        labels = [listed.label for listed in self._listed if listed.spec == named]
        for key in (named, *(label for label in labels if label)):
            if key in own:
                own = {spec: own[key], **own}
        request = ModelRequest(
            spec,
            CorpusRequest(
                config.corpus, config.prompts, config.seq_len, config.seed, pack=config.pack, pad_id=config.pad_id
            ),
            self._folder,
            config.groups,
            tuple(config.writers),
            config.verify,
            own,
            self._refresh,
            halved=config.dtype == "bfloat16",
        )
        return self._background.submit(resolve_model, request)


def _passed_over(config: SweepConfig, models: Iterable[ListedModel]) -> list[str]:
    """Lines on files and folders here that have the name of a known model or corpus, which goes before them."""
    names = dict.fromkeys(split_point(listed.spec)[0] for listed in models)
    entries = {name: entry for name in names if (entry := find_entry(name)) is not None}
    meanings = {
        name: f"the bundled model {entry.name}" if entry.kind == "bundled" else f"the model {entry.location} of the hub"
        for name, entry in entries.items()
    }
    corpora = {config.corpus, *config.own_corpora.values()} & {OWN, *KNOWN_CORPORA}
    meanings |= dict.fromkeys(sorted(corpora), "a known corpus")
    lines = (passed_over(name, meaning) for name, meaning in meanings.items())
    return [line for line in lines if line is not None]


def _unread(config: SweepConfig, listed: Iterable[ListedModel], models: Iterable[Resolved]) -> list[str]:
    """Keys of ``own_corpora`` that name nothing here; a sweep may be measured in parts, so that is no error."""
    known = {
        *(each.spec for each in listed),
        *(name for model in models for name in (model.spec, model.name, model.base)),
    }
    return [key for key in config.own_corpora if key not in known]


def _without_repeats(models: Sequence[Resolved], listed: Sequence[str], reporter: Reporter) -> list[Resolved]:
    """Models but for checkpoints that nobody listed by themselves whose weights another of the same training has.

    Trainings that keep their last checkpoint and their final weights have such.
    """
    first: dict[tuple[str, str], Resolved] = {}
    for model in sorted(models, key=lambda model: model.spec not in listed):
        first.setdefault((model.base, model.hash), model)
    kept = []
    for model in models:
        twin = first[model.base, model.hash]
        if twin is model or model.spec in listed:
            kept.append(model)
        else:
            reporter.say(f"{model.name} is left out: its weights are those of {twin.name}")
    return kept


def _refuse_twins(models: list[Resolved]) -> None:
    """Names and weights are what results are found by, so each may come once."""
    seen: dict[str, str] = {}
    for model in models:
        checks = (
            (model.hash, "hold the same weights", "list only one of them"),
            (model.name, "have the same name", f"write NAME={model.spec} to give one another"),
        )
        for key, what, remedy in checks:
            if key in seen:
                raise UsageError(f"models {seen[key]} and {model.spec} {what}: {remedy}")
            seen[key] = model.spec
