"""Staging: every model of a sweep is resolved with its corpus in the background process, before anything is planned."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.files import staging_folder
from sweep.progress import Reporter
from workers.checkpoints import names_several
from workers.errors import UsageError
from workers.records import Resolved
from workers.sampling import CorpusRequest


class Staging:
    """The models of a sweep on their way into the staging folder.

    Args:
        config: names models and corpus.
        background: resolves them, one after the other.
        refresh: ask the hub for what is staged as well.
    """

    def __init__(self, config: SweepConfig, background: Background, refresh: bool = False) -> None:
        self._config, self._background, self._refresh = config, background, refresh
        self._folder: Path = staging_folder(config)
        self._begun: dict[str, Future[Any]] = {}
        for spec in config.models:
            self._begun[spec] = self._expand(spec) if names_several(spec) else self._resolve(spec)

    def finish(self, reporter: Reporter) -> list[Resolved]:
        """Wait for the staged models, in the order of the config, checkpoints in the order of training.

        Raises:
            SweepError: a model or the corpus cannot be had or does not fit.
            UsageError: two models cannot be told apart.
        """
        wanted = {spec: future for named in self._begun for spec, future in self._each(named, reporter)}
        models = []
        for spec, future in wanted.items():
            reporter.say(f"preparing {spec}")
            models.append(future.result())
            for note in models[-1].notes:
                reporter.say(note)
        _refuse_twins(models)
        return models

    def _each(self, named: str, reporter: Reporter) -> list[tuple[str, Future[Resolved]]]:
        """The models that one entry of the config names: itself, or checkpoints."""
        if not names_several(named):
            return [(named, self._begun[named])]
        specs = self._begun[named].result()
        reporter.say(f"{named}: {', '.join(specs)}")
        return [(spec, self._begun.get(spec) or self._resolve(spec)) for spec in specs]

    def _expand(self, spec: str) -> Future[tuple[str, ...]]:
        return self._background.submit("workers.checkpoints:expand", spec, str(self._folder), self._refresh)

    def _resolve(self, spec: str) -> Future[Resolved]:
        config = self._config
        request = CorpusRequest(config.corpus, config.prompts, config.seq_len, config.seed)
        named = (config.groups, tuple(config.writers), config.verify)
        told = (str(self._folder), *named, config.own_corpora, self._refresh)
        return self._background.submit("workers.resolve:resolve", spec, request, *told)


def _refuse_twins(models: list[Resolved]) -> None:
    """Names and weights are what results are found by, so each may come once."""
    seen: dict[str, str] = {}
    for model in models:
        for key, what in ((model.hash, "hold the same weights"), (model.name, "have the same name")):
            if key in seen:
                raise UsageError(f"models {seen[key]} and {model.spec} {what}: list only one of them")
            seen[key] = model.spec
