"""One helper process for many runs: to start one, which imports torch, takes longer than a small sweep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from erasure_sweep.sweep import driver, estimate
from erasure_sweep.sweep.helper.process import HelperProcess
from erasure_sweep.sweep.helper.tasks import ComparisonRequest, PageRequest, compare_models, write_page
from erasure_sweep.sweep.run_folder import RunFolder


class _Lent:
    """The shared process, which outlives the runs that use it."""

    def __init__(self, background: HelperProcess, pages: bool) -> None:
        self._background, self._pages = background, pages

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._pages:
            task = function if isinstance(function, partial) else partial(function)
            if stand_in := {write_page: _page_without_figures, compare_models: _comparison_without_figures}.get(
                task.func
            ):
                function = partial(stand_in, *task.args, **task.keywords)
        # a process of the run's own would be started in the current folder
        return self._background.submit(_in_folder, Path.cwd(), function, *arguments)

    def close(self) -> None:
        pass


def _in_folder(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    os.chdir(folder)
    return function(*arguments)


def _page_without_figures(request: PageRequest) -> None:
    folder = RunFolder(request.out)
    entry = request.manifest.entry(request.name)
    folder.figures(entry.folder).mkdir(parents=True, exist_ok=True)
    folder.model_page(entry.folder).write_text("<h1>no figures</h1>", encoding="utf-8")


def _comparison_without_figures(request: ComparisonRequest) -> list[str]:
    RunFolder(request.out).comparison.write_text("<h1>no figures</h1>", encoding="utf-8")
    return []


@contextmanager
def lending(background: HelperProcess, pages: bool = True) -> Iterator[None]:
    """Runs in this process use this helper in place of one of their own.

    Args:
        pages: draw them; without, there are pages that hold nothing, for tests that look at tables, states and runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (driver, estimate):
            patch.setattr(module, "HelperProcess", lambda **_: _Lent(background, pages))
        yield
