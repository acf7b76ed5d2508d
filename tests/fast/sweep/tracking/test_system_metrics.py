"""What is seen of the machine that a sweep is driven from."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from erasure_sweep.sweep.tracking.system_metrics import SAMPLING_S, sampling_s, this_machine

WANTED, INTERVAL = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"


def test_a_sample_has_the_names_that_mlflow_shows_as_system_metrics() -> None:
    machine = this_machine()
    assert machine is not None
    first, second = machine.sample(), machine.sample()
    assert set(first) == set(second) >= {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"}
    assert 0 < second["system/system_memory_usage_percentage"] < 100
    assert all(name.startswith("system/") and isinstance(value, float) for name, value in second.items())


def test_a_monitor_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    def fail(self: Any) -> None:
        raise PermissionError("no disk")

    monkeypatch.setattr(DiskMonitor, "collect_metrics", fail)
    machine = this_machine()
    assert machine is not None
    assert {name.partition("_")[0] for name in machine.sample()} == {"system/cpu", "system/system", "system/network"}


@pytest.mark.parametrize("off", ["false", "FALSE", "0"])
def test_who_does_not_want_it_is_not_watched(off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WANTED, off)
    assert this_machine() is None


def test_a_library_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("mlflow.system_metrics"):
            raise ImportError("no psutil")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert this_machine() is None


def test_the_user_sets_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INTERVAL, raising=False)
    assert sampling_s() == SAMPLING_S
    for asked, found in (
        ("30", 30.0),
        ("0.001", 1.0),
        ("soon", SAMPLING_S),
        ("nan", SAMPLING_S),
        ("inf", SAMPLING_S),
        ("1e10", 3600.0),
    ):
        monkeypatch.setenv(INTERVAL, asked)
        assert sampling_s() == found
