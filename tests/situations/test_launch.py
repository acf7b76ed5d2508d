"""Where and how a run is started."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from erasure_sweep.sweep.commands.main import call
from erasure_sweep.sweep.helper.process import HelperProcess
from tests.support.bad_input import Bench, Ran, assert_refused, environment
from tests.support.helper_process import lending

pytestmark = pytest.mark.xdist_group("ray")

OF_ANOTHER_CLUSTER = {
    "RAY_ADDRESS": "http://127.0.0.1:8265",
    "RAY_AUTH_MODE": "disabled",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "/nowhere"}}',
    "RAY_NAMESPACE": "another",
    "RAY_RUNTIME_ENV_HOOK": "nowhere.hook",
}


def script(arguments: list[str]) -> str:
    """A user's script, without the guard that multiprocessing asks for, on one core of the machine."""
    return f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from erasure_sweep.sweep.commands.main import main
main({arguments!r})
"""


def plant(folder: Path, *names: str) -> None:
    """Another checkout, and files of common names; none can be imported."""
    for name in names:
        path = folder / name if name.endswith(".py") else folder / name / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('{name} of {folder.name}')\n")


@pytest.fixture(scope="module")
def expected(bench: Bench) -> dict[str, bytes]:
    """Tables of a scan that nothing is in the way of."""
    ran = bench.run(bench.root / "expected" / "out", stage="scan")
    assert ran.code == 0, ran.stderr
    return ran.tables()


@pytest.fixture(scope="module")
def launched(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The scan with Ray's workers, with everything in its way at once."""
    project, out = tmp_path_factory.mktemp("project"), bench.root / "launched" / "out"
    current, scripts = project / "notebooks", project / "scripts"
    (project / "pyproject.toml").parent.mkdir(exist_ok=True)
    (project / "pyproject.toml").write_text("[project]\nname = 'study'\nversion = '1'\n")
    plant(
        current, "erasure_sweep", "workers", "sweep", "dashboards", "torch", "workers.py", "yaml.py", "safetensors.py"
    )
    plant(scripts, "workers", "sweep", "dashboards", "workers.py")
    (scripts / "study.py").write_text(script(["run", *bench.flags(out, workers=None, stage="scan")]))
    # What a process started by uv has for its parent: a command line of uv's.
    (current / "run").write_text(f"{sys.executable} {scripts / 'study.py'}\nexit $?\n")
    done = subprocess.run(
        ["uv", "run", "study.py"],
        executable="/bin/sh",
        cwd=current,
        env=environment(**OF_ANOTHER_CLUSTER),
        capture_output=True,
        text=True,
        check=False,
    )
    return bench.ran(done.returncode, done.stdout, done.stderr, out)


class TestRayWorkers:
    @pytest.mark.nightly
    def test_another_checkout_in_the_current_folder(self, launched: Ran, expected: dict[str, bytes]) -> None:
        """Another checkout's `workers/`, or one's own `workers.py`, in the folder of the run or of its script

        Workers measure with the installed package that the driver runs, or not at all.
        """
        assert launched.code == 0, launched.stderr
        assert launched.tables() == expected

    @pytest.mark.nightly
    def test_uv_run_in_a_subfolder(self, launched: Ran, expected: dict[str, bytes]) -> None:
        """`uv run` in a subfolder of a project, or beside large files

        Workers on this machine run in the environment that the run is in; nothing is packed or sent.
        """
        assert launched.code == 0, launched.stderr
        assert "pyproject.toml" not in launched.stderr and launched.tables() == expected

    @pytest.mark.nightly
    def test_variables_of_another_cluster(self, launched: Ran, expected: dict[str, bytes]) -> None:
        """`RAY_…` variables of a cluster, a job or a dashboard in the environment

        A run on this machine takes nothing from them; `RAY_ADDRESS=HOST:PORT` means that cluster, as documented.
        """
        assert launched.code == 0, launched.stderr
        assert launched.tables() == expected

    def test_fewer_cores_than_the_machine_has(self, launched: Ran) -> None:
        """Fewer cores than the machine has: `taskset`, a container's quota, a batch job

        As many workers are started as there are cores for the process.
        """
        started = re.findall(r"(\d+) workers started", (launched.out / "run.log").read_text())
        assert sum(map(int, started)) == 1, started

    def test_a_script_without_the_guard(self, launched: Ran, expected: dict[str, bytes]) -> None:
        """A script without `if __name__ == "__main__"`

        It runs once: no process of a sweep imports the user's script again.
        """
        assert launched.code == 0 and launched.stdout.count("of scan, 0 already measured") == 1
        assert launched.tables() == expected


@pytest.mark.nightly
def test_a_script_on_standard_input(bench: Bench, out: Path, expected: dict[str, bytes]) -> None:
    """The API from standard input: `python - < study.py`

    It measures as from a file.
    """
    text = script(["run", *bench.flags(out, stage="scan")])
    done = subprocess.run(
        [sys.executable, "-"], input=text, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert bench.ran(0, done.stdout, done.stderr, out).tables() == expected


class TestBareProcesses:
    """A process that lacks what a desktop's has."""

    def test_no_home(self, bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A container whose user has no entry in passwd, and no HOME

        One line that asks for HOME, before anything is made.
        """

        def unknown(uid: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", unknown)
        assert_refused(bench.run(out), 1, "this user has no home folder: set HOME")

    def test_a_home_that_cannot_be_written(self, bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A home folder that cannot be written, as in many containers

        One line that names the folder and `--staging`; with that, or ERASURE_SWEEP_STAGING, nothing is written there.
        """
        monkeypatch.setenv("HOME", "/proc")
        monkeypatch.delenv("ERASURE_SWEEP_STAGING")
        assert_refused(bench.run(out), 1, "cannot stage model good in /proc/.cache/", "--staging names another folder")

    def test_a_current_folder_that_was_removed(
        self, bench: Bench, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A current folder that was removed meanwhile

        One line that says so.
        """
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert_refused(bench.run(out), 1, "the current folder was removed")

    def test_no_folder_for_temporary_files(self, bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A TMPDIR that does not exist, and a full or read-only /tmp

        A TMPDIR that does not exist is passed over; where no folder can be written, one line asks for one.
        """
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/nowhere"])
        assert_refused(bench.run(out), 1, "set TMPDIR")

    def test_few_open_files(self, bench: Bench, out: Path) -> None:
        """`ulimit -n` of a few dozen files

        The run raises it as far as it may; where that is too little, one line says so.
        """
        command = shlex.join(bench.command(out))
        done = subprocess.run(
            ["/bin/sh", "-c", f"ulimit -n 60; exec {command}"],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        ran = bench.ran(done.returncode, done.stdout, done.stderr, out)
        assert_refused(ran, 1, "this process may have 60 files open, and a run needs 256")

    @pytest.mark.nightly
    def test_shared_memory_that_cannot_be_written(
        self, bench: Bench, out: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
    ) -> None:
        """A read-only or tiny /dev/shm, with `--workers 0`

        It measures: nothing is kept in shared memory. Ray puts its objects into temporary files there.
        """

        def read_only(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("_multiprocessing.SemLock", read_only)
        with closing(HelperProcess()) as helper, lending(helper, pages=False):
            assert call(["run", *bench.flags(out, stage="scan")]) == 0
        assert bench.ran(0, "", "", out).tables() == expected

    def test_a_standard_output_that_is_closed(self) -> None:
        """Standard output that is closed (`>&-`), or whose reader goes away (`| head`)

        Neither is a traceback; errors are still said on standard error.
        """
        command = shlex.join([sys.executable, "-m", "erasure_sweep.sweep.commands"])
        for shell, code, said in (
            (f"{command} models >&-", 0, ""),
            (f"{command} config nowhere.yaml >&- <&-", 2, "erasure-sweep: "),
            (f"{command} config --reference | true", 0, ""),
        ):
            done = subprocess.run(
                ["/bin/sh", "-c", shell], env=environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == code and done.stderr.startswith(said) and "Traceback" not in done.stderr, (
                done.stderr
            )
