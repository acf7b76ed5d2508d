"""Names that are private to other packages: each stands in one place, is what is needed there, and costs one feature."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from erasure_sweep.sweep.tracking.saved_view import KIND_TAG, VIEW_TAG, experiment_tags, save_view
from erasure_sweep.workers.storage.shard_storage import open_storage
from tests.support.paths import ROOT

PRIVATE = re.compile(
    r"^ *(?:from|import) +([a-z][\w.]*\._[a-z][\w.]*)|getattr\(\w+, \"(_[a-z]\w*)\"|_do_request", re.MULTILINE
)


def sources() -> Iterator[Path]:
    for folder in ("sweep", "workers", "dashboards", "tests"):
        yield from (ROOT / folder).rglob("*.py")


def test_each_stands_in_one_place():
    uses = {
        (path.relative_to(ROOT).as_posix(), match[1] or match[2] or match[0])
        for path in sources()
        for match in PRIVATE.finditer(path.read_text(encoding="utf-8"))
        if path != Path(__file__)
    }
    assert uses == {
        ("sweep/execution/ray/jobs.py", "_do_request"),
        ("sweep/execution/ray/local_cluster.py", "ray._private"),
        ("sweep/execution/ray/local_cluster.py", "ray._raylet"),
        ("tests/fast/sweep/clusters/test_clusters.py", "ray.autoscaler._private.util"),
        ("tests/situations/test_tracking.py", "mlflow.tracking._tracking_service.utils"),
        ("workers/models/architectures/opt.py", "_remove_final_layer_norm"),  # of its config
        ("workers/models/model_in_memory.py", "_name_or_path"),
        ("workers/models/model_in_memory.py", "_orig_mod"),
        ("workers/storage/remote.py", "_pipe_file"),
    }


class TestPutOfFsspec:
    def test_s3_creates_only_and_is_awaited(self):
        s3fs = pytest.importorskip("s3fs")
        put = s3fs.S3FileSystem._pipe_file
        assert inspect.iscoroutinefunction(put)
        assert "mode" in inspect.signature(put).parameters

    def test_without_it_objects_are_put_all_the_same(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(MemoryFileSystem, "async_impl", True)
        assert not hasattr(MemoryFileSystem, "_pipe_file")
        storage = open_storage("memory://private-names")
        storage.put("a", b"content")
        assert storage.get("a") == b"content"


class TestViewOfMlflow:
    def test_what_it_is_made_of(self):
        view = json.loads(experiment_tags({})[VIEW_TAG])
        assert set(view) == {"name", "createdAt", "updatedAt", "state"}

    @pytest.mark.parametrize("fault", ["refused", "gone"])
    def test_one_that_cannot_be_saved_is_a_line_in_the_log(self, fault: str, caplog: pytest.LogCaptureFixture):
        from mlflow.exceptions import MlflowException

        def refuse(*_: object) -> None:
            raise MlflowException("tag value too long\nsecond line")

        found = None if fault == "gone" else SimpleNamespace(tags={KIND_TAG: "any"})
        client: Any = SimpleNamespace(get_experiment=lambda _: found or refuse(), set_experiment_tag=refuse)
        with caplog.at_level(logging.WARNING, logger="erasure_sweep"):
            save_view(client, "1")
        assert [record.getMessage() for record in caplog.records] == [
            "MLflow's pages open as they come: no view could be saved (tag value too long)"
        ]


def test_questions_of_rays_client_of_jobs():
    """What ``sweep.execution.ray.jobs`` gives limits of time to."""
    from ray.job_submission import JobSubmissionClient

    assert list(inspect.signature(JobSubmissionClient._do_request).parameters)[:3] == ["self", "method", "endpoint"]


def test_what_keeps_rays_local_clusters_to_themselves():
    """Of ``sweep.execution.ray.local_cluster``: without one of these Ray is not started; ``--workers 0`` measures."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    assert {"ENABLE_RAY_CLUSTER", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"} <= set(vars(ray_constants))
    assert callable(Config.initialize) and callable(AuthenticationTokenLoader.instance().reset_cache)


def test_names_of_models_in_memory():
    """Without these a model is called by its class, and one that was compiled is refused."""
    import torch
    from transformers import LlamaConfig

    plain = torch.nn.Linear(1, 1)
    assert torch.compile(plain)._orig_mod is plain
    assert isinstance(LlamaConfig()._name_or_path, str)
