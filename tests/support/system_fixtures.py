"""Fixtures of whole runs: a hub with a cache of its own; a bench and an undisturbed run on it; cleaning up.

The conftest of each folder that uses them imports all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from erasure_sweep.sweep.helper.process import HelperProcess
from tests.support.bad_input import Bench, Ran, assert_finished
from tests.support.helper_process import lending
from tests.support.servers.hub import Hub
from tests.support.servers.s3 import S3Server
from tests.support.shapes import shapes_unchecked

__all__ = [
    "_of_whole_runs",
    "background",
    "bench",
    "cache",
    "cleaned",
    "helper",
    "hub",
    "measured",
    "out",
    "s3",
    "s3_server",
    "shapes_unchecked",
]


@pytest.fixture(scope="module", autouse=True)
def _of_whole_runs(shapes_unchecked: None) -> None:
    """They are of many kinds, and long."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """One stand-in for all modules; this process' clients are pointed at it."""
    with s3_server.use():
        yield s3_server


@pytest.fixture
def cache(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub, seen from this process with a cache of its own."""
    hub.use_in_process(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="session")
def background() -> Iterator[HelperProcess]:
    """One helper process for all modules; it is started here, where no test has changed the environment."""
    with closing(HelperProcess()) as process:
        process.submit(os.getpid).result()
        yield process


@pytest.fixture(scope="module")
def helper(background: HelperProcess) -> Iterator[None]:
    """The helper process, for all runs of a module that are in this process; their pages hold nothing."""
    with lending(background, pages=False):
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, background: HelperProcess) -> Bench:
    """Small models and tokens, and the command line called on them in this process; one helper process for all runs."""
    return Bench(tmp_path_factory.mktemp("bench"), background=background)


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Ran:
    """An undisturbed run."""
    (bench.root / "measured").mkdir()
    ran = bench.run(bench.root / "measured" / "out")
    assert_finished(ran, "good")
    return ran


@pytest.fixture
def cleaned(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Cleans and returns the printed lines."""
    from erasure_sweep.sweep.cleaning.clean import clean

    def call(
        *outs: Path,
        stores: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        older_than: timedelta | None = None,
        staging: Path | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        capsys.readouterr()
        clean(list(outs), list(stores), bool(staging), list(names), older_than, staging and str(staging), dry_run)
        return capsys.readouterr().out.splitlines()

    return call
