"""What a run needs of its process, where the system has limits of its own."""

from __future__ import annotations

import resource

import pytest

from erasure_sweep.sweep import process_needs
from erasure_sweep.sweep.process_needs import FILES, check_process
from erasure_sweep.workers.errors import SweepError


class Limit:
    """Stands for the limit of open files; asking for more than ``most`` is refused, as macOS does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, most: int) -> None:
        self.soft, self.most = soft, most
        monkeypatch.setattr(process_needs.resource, "getrlimit", lambda _: (self.soft, resource.RLIM_INFINITY))
        monkeypatch.setattr(process_needs.resource, "setrlimit", self.set)

    def set(self, _: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.soft = limits[0]


@pytest.mark.parametrize(("most", "reached"), [(100_000, 65_536), (10_240, 8_192), (0, FILES)])
def test_as_many_files_as_the_system_grants(monkeypatch: pytest.MonkeyPatch, most: int, reached: int):
    limit = Limit(monkeypatch, soft=FILES, most=most)
    check_process()
    assert limit.soft == reached


def test_too_few_are_one_line(monkeypatch: pytest.MonkeyPatch):
    Limit(monkeypatch, soft=FILES - 1, most=0)
    with pytest.raises(SweepError, match="files open"):
        check_process()
