"""How many processors a process may use: by its affinity, its control groups and its batch job."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasure_sweep.sweep.execution.usable_cpus import usable_cpus

MACHINE = 16


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 processors, whose system files are made here."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(MACHINE)))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_without_limits_it_is_the_affinity(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cpus(root, {}) == MACHINE
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5})
    assert usable_cpus(root, {}) == 2


@pytest.mark.parametrize(
    ("quota", "n"), [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("odd", 16)]
)
def test_quota_of_a_group(root: Path, quota: str, n: int) -> None:
    write(root / "proc/self/cgroup", "0::/system.slice/job.scope")
    write(root / "sys/fs/cgroup/system.slice/job.scope/cpu.max", quota)
    assert usable_cpus(root, {}) == n


def test_the_smallest_quota_above_a_process_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/slurm/job/step")
    write(root / "sys/fs/cgroup/slurm/job/step/cpu.max", "max 100000")
    write(root / "sys/fs/cgroup/slurm/job/cpu.max", "300000 100000")
    write(root / "sys/fs/cgroup/slurm/cpu.max", "800000 100000")
    assert usable_cpus(root, {}) == 3


def test_a_container_has_its_group_at_the_top(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/../../docker/0123")
    write(root / "sys/fs/cgroup/cpu.max", "400000 100000")
    assert usable_cpus(root, {}) == 4


@pytest.mark.parametrize(("quota", "n"), [("-1", 16), ("250000", 3)])
def test_quota_of_the_older_interface(root: Path, quota: str, n: int) -> None:
    write(root / "proc/self/cgroup", "12:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert usable_cpus(root, {}) == n


@pytest.mark.parametrize(("value", "n"), [("4", 4), ("64", 16), ("0", 16), ("", 16), ("4(x2)", 16)])
def test_a_batch_job_that_binds_nothing(root: Path, value: str, n: int) -> None:
    assert usable_cpus(root, {"SLURM_CPUS_PER_TASK": value}) == n
