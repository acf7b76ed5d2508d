"""Staging: every model of a sweep is resolved with its corpus in the background process, before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from erasure_sweep.sweep.config import SweepConfig
from erasure_sweep.sweep.execution.helper_process import HelperProcess
from erasure_sweep.sweep.helper_tasks import CheckpointsRequest, ModelRequest, list_checkpoints, resolve_model
from erasure_sweep.sweep.progress import Reporter
from erasure_sweep.sweep.run import Run
from erasure_sweep.workers.corpora.resolve_corpus import KNOWN_CORPORA, OWN
from erasure_sweep.workers.corpora.sampling import CorpusRequest
from erasure_sweep.workers.errors import UsageError
from erasure_sweep.workers.known_name import passed_over
from erasure_sweep.workers.models.catalog import find_entry
from erasure_sweep.workers.models.checkpoints import names_several, split_point
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
        self._expanding = {spec: self._expand(spec) for spec in config.models if names_several(spec)}
        self._resolving = {spec: self._resolve(spec) for spec in config.models if spec not in self._expanding}

    def finish(self, reporter: Reporter) -> list[Resolved]:
        """Wait for the staged models, in the order of the config, checkpoints in the order of training.

        Raises:
            SweepError: a model or the corpus cannot be had or does not fit.
            UsageError: two models cannot be told apart.
        """
        for line in _passed_over(self._config):
            reporter.say(line)
        models = []
        for spec in dict.fromkeys(spec for named in self._config.models for spec in self._specs(named, reporter)):
            reporter.say(f"preparing {spec}")
            models.append(self._resolving[spec].result())
            for note in models[-1].notes:
                reporter.say(note)
        for key in _unread(self._config, models):
            reporter.say(f"own_corpora: {key} is none of these models")
        models = _without_repeats(models, self._config.models, reporter)
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

    def _resolve(self, spec: str, named: str | None = None) -> Future[Resolved]:
        """Stage one model, ``named`` being the entry of the config that stands for it and others."""
        config, own = self._config, self._config.own_corpora
        if named in own:
            own = {spec: own[named], **own}
        request = ModelRequest(
            spec,
            CorpusRequest(config.corpus, config.prompts, config.seq_len, config.seed),
            self._folder,
            config.groups,
            tuple(config.writers),
            config.verify,
            own,
            self._refresh,
        )
        return self._background.submit(resolve_model, request)


def _passed_over(config: SweepConfig) -> list[str]:
    """Lines on files and folders here that have the name of a known model or corpus, which goes before them."""
    names = dict.fromkeys(split_point(spec)[0] for spec in config.models)
    entries = {name: entry for name in names if (entry := find_entry(name)) is not None}
    meanings = {
        name: f"the bundled model {entry.name}" if entry.kind == "bundled" else f"the model {entry.location} of the hub"
        for name, entry in entries.items()
    }
    corpora = {config.corpus, *config.own_corpora.values()} & {OWN, *KNOWN_CORPORA}
    meanings |= dict.fromkeys(sorted(corpora), "a known corpus")
    lines = (passed_over(name, meaning) for name, meaning in meanings.items())
    return [line for line in lines if line is not None]


def _unread(config: SweepConfig, models: Iterable[Resolved]) -> list[str]:
    """Keys of ``own_corpora`` that name nothing here; a sweep may be measured in parts, so that is no error."""
    known = {*config.models, *(name for model in models for name in (model.spec, model.name, model.base))}
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
        for key, what in ((model.hash, "hold the same weights"), (model.name, "have the same name")):
            if key in seen:
                raise UsageError(f"models {seen[key]} and {model.spec} {what}: list only one of them")
            seen[key] = model.spec
