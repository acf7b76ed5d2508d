"""Staging: every model of a sweep is resolved with its corpus in the background process, before anything is planned."""

from __future__ import annotations

from concurrent.futures import Future

from sweep.background import Background
from sweep.config import SweepConfig
from sweep.files import staging_folder
from sweep.progress import Reporter
from workers.errors import UsageError
from workers.records import Resolved
from workers.sampling import CorpusRequest


def begin_staging(config: SweepConfig, background: Background) -> list[Future[Resolved]]:
    """Start to stage each of the config's models; the futures are in their order."""
    request = CorpusRequest(config.corpus, config.prompts, config.seq_len, config.seed)
    named = (config.groups, tuple(config.writers), config.verify)
    folder = str(staging_folder(config))
    return [background.submit("workers.resolve:resolve", spec, request, folder, *named) for spec in config.models]


def finish_staging(config: SweepConfig, begun: list[Future[Resolved]], reporter: Reporter) -> list[Resolved]:
    """Wait for the staged models.

    Raises:
        SweepError: a model or the corpus cannot be had or does not fit.
        UsageError: two models cannot be told apart.
    """
    models = []
    for spec, future in zip(config.models, begun, strict=True):
        reporter.say(f"preparing {spec}")
        models.append(future.result())
        for note in models[-1].notes:
            reporter.say(note)
    _refuse_twins(models)
    return models


def _refuse_twins(models: list[Resolved]) -> None:
    """Names and weights are what results are found by, so each may come once."""
    seen: dict[str, str] = {}
    for model in models:
        for key, what in ((model.hash, "hold the same weights"), (model.name, "have the same name")):
            if key in seen:
                raise UsageError(f"models {seen[key]} and {model.spec} {what}: list only one of them")
            seen[key] = model.spec
