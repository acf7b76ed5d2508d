"""Which process works on a sweep, and which staged files it uses: told from others, on this machine and on others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from erasure_sweep.sweep.store.driver_process import DriverProcess, read_driver, started, this_driver
from erasure_sweep.sweep.store.staged_use import StagedFilesInUse, read_uses
from tests.support.waiting import wait_until

GONE = 2**22 + 1
"""No process has this number: Linux gives none beyond."""


def here(tmp_path: Path, pid: int = 0) -> DriverProcess:
    """A driver on this machine."""
    return this_driver("trial", "ab" * 16, tmp_path / "out", pid or os.getpid())


def elsewhere(tmp_path: Path, host: str = "far") -> DriverProcess:
    """A driver on another machine, where this process' number means another one."""
    return here(tmp_path)._replace(host=host, boot_id="another boot")


class TestDriver:
    def test_this_process(self, tmp_path: Path):
        driver = here(tmp_path)
        assert driver.is_here and driver.is_alive is True
        assert driver.pid == os.getpid() and str(driver.pid) in str(driver) and driver.out in str(driver)
        assert driver.holder != here(tmp_path).holder

    def test_one_that_ended(self, tmp_path: Path):
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        driver = here(tmp_path, process.pid)
        assert driver.is_alive is True
        process.kill()
        wait_until(lambda: not started(process.pid))  # nobody has waited for it yet: it still has its number
        assert Path(f"/proc/{process.pid}").exists() and driver.is_alive is False
        process.communicate()
        assert driver.is_alive is False

    def test_another_of_the_same_number(self, tmp_path: Path):
        assert here(tmp_path)._replace(pid_started="1").is_alive is False

    def test_before_the_machine_was_started_anew_or_elsewhere(self, tmp_path: Path):
        for other in ({"boot_id": "another boot"}, {"host": "far"}):
            driver = here(tmp_path)._replace(**other)
            assert not driver.is_here and driver.is_alive is None

    def test_a_command_may_have_any_name(self, tmp_path: Path):
        script = tmp_path / "a) Z 1 2 (b"
        script.write_text("#!/bin/sh\nread line\n")
        script.chmod(0o755)
        process = subprocess.Popen([script], stdin=subprocess.PIPE)
        try:
            after_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            began = int(started(process.pid) or 0) / os.sysconf("SC_CLK_TCK")
            assert after_boot_s - 60 < began <= after_boot_s
        finally:
            process.communicate(b"\n")

    @pytest.mark.parametrize("damage", [{"pid": "1"}, {"host": None}, {"holder": 3}])
    def test_records_that_are_none(self, tmp_path: Path, damage: dict[str, object]):
        values = here(tmp_path)._asdict()
        assert read_driver(values | {"more": 1}) is not None
        assert read_driver(values | damage) is None
        assert read_driver([values]) is None and read_driver(None) is None


class TestUse:
    @pytest.fixture
    def staging(self, tmp_path: Path) -> Iterator[Path]:
        staging = tmp_path / "staging"
        (staging / "models").mkdir(parents=True)
        for name in ("used", "other"):
            path = staging / "models" / name
            path.write_bytes(b"x")
            os.utime(path, (1e9, 1e9))
        yield staging

    def test_all_of_it_until_the_files_are_known(self, staging: Path, tmp_path: Path):
        use = StagedFilesInUse(staging, here(tmp_path))
        assert read_uses(staging) == []
        use.start()
        assert [record.files for record in read_uses(staging)] == [None]
        used, other = staging / "models" / "used", staging / "models" / "other"
        use.of([used, tmp_path / "outside"])
        assert [record.files for record in read_uses(staging)] == [frozenset([used])]
        assert used.stat().st_mtime > time.time() - 3600 and other.stat().st_mtime == 1e9
        assert not (tmp_path / "outside").exists()
        os.utime(used, (1e9, 1e9))
        use.end()
        assert used.stat().st_mtime > time.time() - 3600 and other.stat().st_mtime == 1e9
        assert read_uses(staging) == []

    def test_whose_process_is_gone_uses_nothing(self, staging: Path, tmp_path: Path):
        now = time.time()
        for pid, live in ((os.getpid(), True), (GONE, False)):
            use = StagedFilesInUse(staging, here(tmp_path)._replace(pid=pid))
            use.start()
            assert [record.is_live(now) for record in read_uses(staging)] == [live]
            assert [record.is_live(now + 1e6) for record in read_uses(staging)] == [live]
            use.end()

    def test_of_another_machine_by_its_beats(self, staging: Path, tmp_path: Path):
        use = StagedFilesInUse(staging, elsewhere(tmp_path))
        use.start()
        (record,) = read_uses(staging)
        os.utime(record.path, (1e9, 1e9))
        (record,) = read_uses(staging)
        assert record.is_live(1e9 + 599) and not record.is_live(1e9 + 601)
        use.beat()
        (record,) = read_uses(staging)
        assert record.beat > 1e9 + 601

    def test_a_beat_writes_again_what_is_gone(self, staging: Path, tmp_path: Path):
        use = StagedFilesInUse(staging, here(tmp_path))
        use.of([staging / "models" / "used"])
        for record in read_uses(staging):
            record.path.unlink()
        use.beat()
        assert [record.files for record in read_uses(staging)] == [frozenset([staging / "models" / "used"])]

    def test_a_folder_that_cannot_be_written_is_no_error(self, tmp_path: Path):
        (tmp_path / "file").write_bytes(b"")
        use = StagedFilesInUse(tmp_path / "file" / "staging", here(tmp_path))
        use.start()
        use.of([tmp_path / "file" / "staging" / "models" / "a"])
        use.beat()
        use.end()

    def test_damaged_records_are_left_out(self, staging: Path, tmp_path: Path):
        StagedFilesInUse(staging, here(tmp_path)).start()
        for name, content in (("a.json", "{"), ("b.json", "[]"), ("c.json", "{}")):
            (staging / "in-use" / name).write_text(content)
        assert len(read_uses(staging)) == 1
