"""Downloads from a loopback stand-in for the Hugging Face hub: resumed, checked, shared by processes, found again."""

from __future__ import annotations

import errno
import os
import pty
import random
import select
import subprocess
import sys
import termios
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.hub.files import RemoteFile, content_hash, hub_file
from tests.support.paths import ROOT
from tests.support.servers.hub import etag, refused_soon, run_environment
from tests.support.waiting import wait_until

REPO = "NeelNanda/GELU_1L512W_C4_Code"
WEIGHTS = "model_final.pth"
FILES = ("config.json", WEIGHTS)
CONTENT = random.Random(0).randbytes(300_001)
FETCH = """
import sys
from erasure_sweep.workers.errors import SweepError
from erasure_sweep.workers.hub.files import hub_file

try:
    print(hub_file(sys.argv[1], sys.argv[2], ("config.json", sys.argv[2])))
except SweepError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def cache(cache, monkeypatch):
    """The same, retries without a pause between them; what came counts in small pieces, so that small files are resumed."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
    return cache


@pytest.fixture
def repo(hub):
    return hub.add("models", REPO, {"config.json": b'{"n_layers": 1}', WEIGHTS: CONTENT})


def fetch(file: str = WEIGHTS, revision: str | None = None, refresh: bool = False) -> Path:
    return hub_file(REPO, file, FILES, revision, refresh=refresh)


def refusal(file: str = WEIGHTS) -> str:
    return refused_soon(lambda: fetch(file))


def start_fetch(environment: dict[str, str], stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Fetch the weights in a process of its own, which reads the hub's variables from the environment."""
    command = [sys.executable, "-c", FETCH, REPO, WEIGHTS]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def blobs(cache: Path) -> list[Path]:
    """Contents in the cache, whole or not."""
    return sorted((cache / "hub").rglob("blobs/*"))


def blob_of(cache: Path) -> Path:
    """The weights' content in the cache."""
    (path,) = (path for path in blobs(cache) if path.name == etag(WEIGHTS, CONTENT))
    return path


class TestResumed:
    @pytest.mark.parametrize("cdn", [False, True])
    def test_a_dropped_connection(self, cdn, hub, cache, repo):
        repo.faults[WEIGHTS], repo.cdn = "drop-once", cdn
        assert fetch().read_bytes() == CONTENT
        assert hub.served[REPO, WEIGHTS] == (len(CONTENT), 2)

    def test_a_connection_that_always_ends(self, hub, cache, repo):
        """Each brings half of what is missing, and the next goes on there; what came is not kept for another call."""
        repo.faults[WEIGHTS] = "cut"
        assert refusal().startswith(f"the download of {WEIGHTS} of {REPO} broke off: run again (")
        assert hub.served[REPO, WEIGHTS].transfers > 10 and hub.served[REPO, WEIGHTS].bytes < 2 * len(CONTENT)
        assert blobs(cache) == []
        repo.faults.clear()
        assert fetch().read_bytes() == CONTENT

    def test_after_the_process_was_killed(self, hub, cache, repo):
        repo.faults[WEIGHTS] = "stall"
        half, patient = len(CONTENT) // 2, {"HF_HUB_DOWNLOAD_TIMEOUT": "600"}
        with start_fetch(run_environment(hub, cache) | patient) as process:
            try:
                wait_until(lambda: hub.served[REPO, WEIGHTS].bytes == half)
            finally:
                process.kill()
        repo.faults.clear()
        assert fetch().read_bytes() == CONTENT
        assert blob_of(cache).read_bytes() == CONTENT

    def test_a_server_without_ranges_sends_the_whole_again(self, hub, cache, repo):
        repo.faults[WEIGHTS], repo.ranges = "drop-once", False
        assert fetch().read_bytes() == CONTENT
        assert hub.served[REPO, WEIGHTS] == (len(CONTENT) // 2 + len(CONTENT), 2)


class TestPatience:
    def test_slow_and_steady(self, hub, cache, repo, monkeypatch):
        """The whole takes longer than the limit, each part of it less."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 2)
        hub.drips, hub.drip_s = 10, 0.3
        repo.faults[WEIGHTS] = "slow"
        assert fetch().read_bytes() == CONTENT
        assert hub.served[REPO, WEIGHTS] == (len(CONTENT), 1)

    def test_stalled(self, hub, cache, repo, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        repo.faults[WEIGHTS] = "stall"
        message = refusal()
        assert message.startswith(f"the download of {WEIGHTS} of {REPO} broke off: run again (nothing came for 0.2 s, ")
        assert "HF_HUB_DOWNLOAD_TIMEOUT" in message
        repo.faults.clear()
        assert fetch().read_bytes() == CONTENT


class TestChecked:
    @pytest.mark.parametrize("cdn", [False, True])
    @pytest.mark.parametrize("file", FILES)
    def test_damaged(self, file, cdn, hub, cache, repo):
        repo.faults[file], repo.cdn = "damaged", cdn
        message = refusal(file)
        assert message.startswith(f"the download of {file} of {REPO} came damaged (its hash is ")
        assert message.endswith(f", the hub says {etag(file, repo.files[file])[:12]}…): run again")
        assert blobs(cache) == [] and list((cache / "hub").rglob(f"snapshots/*/{file}")) == []
        repo.faults.clear()
        assert fetch(file).read_bytes() == repo.files[file]

    def test_damaged_without_symbolic_links(self, cache, repo, monkeypatch):
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
        repo.faults[WEIGHTS] = "damaged"
        assert "came damaged" in refusal()
        repo.faults.clear()
        assert fetch().read_bytes() == CONTENT

    def test_a_hash_of_another_kind_is_not_checked(self, cache, repo, monkeypatch):
        """As of mirrors."""
        monkeypatch.setattr(type(repo), "etag", lambda *_: "5eb63bbbe01eeed093cb22bb8f5acdc3-2")
        assert fetch().read_bytes() == CONTENT

    def test_short(self, hub, cache, repo):
        repo.faults[WEIGHTS] = "short"
        assert "broke off: run again (the hub sends less than it says)" in refusal()
        repo.faults.clear()
        assert fetch().read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
            (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ],
    )
    def test_hashes_of_git_and_sha256(self, content, expected, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(content)
        assert content_hash(path, expected) == expected
        assert content_hash(path, "5eb63bbbe01eeed093cb22bb8f5acdc3-2") is None


class TestCache:
    def test_nothing_is_asked_again(self, hub, cache, repo):
        first = [fetch(file) for file in FILES]
        hub.requests.clear()
        assert [fetch(file) for file in FILES] == first
        assert hub.requests == []

    @pytest.mark.parametrize("offline", [False, True])
    def test_works_when_the_hub_is_gone(self, offline, hub, cache, repo):
        path = fetch()
        hub.stop()
        with start_fetch(run_environment(hub, cache, offline)) as process:
            assert process.communicate() == (f"{path}\n", "")

    def test_offline_in_one_line(self, hub, cache, repo):
        with start_fetch(run_environment(hub, cache, offline=True)) as process:
            stderr = process.communicate()[1]
        assert process.returncode == 1
        assert stderr.startswith(f"{WEIGHTS} of {REPO} is not in the Hugging Face cache and HF_HUB_OFFLINE is set: ")
        assert stderr.count("\n") == 1
        assert hub.requests == []

    @pytest.mark.parametrize("file", ["config.json", "checkpoints/model_100.pth"])
    def test_huggingface_hub_finds_it(self, file, cache, repo):
        from huggingface_hub import hf_hub_download, scan_cache_dir

        repo.files[file] = CONTENT
        path = fetch(file)
        assert path == cache / "hub" / "models--NeelNanda--GELU_1L512W_C4_Code" / "snapshots" / repo.sha / file
        assert hf_hub_download(REPO, file, local_files_only=True) == str(path)
        (scanned,) = scan_cache_dir(cache / "hub").repos
        assert (scanned.repo_id, scanned.size_on_disk) == (REPO, len(CONTENT))

    def test_one_content_at_two_revisions_is_fetched_once(self, hub, cache, repo):
        repo.revisions["step100"] = {WEIGHTS: CONTENT}
        assert fetch().parent != fetch(revision="step100").parent
        assert hub.served[REPO, WEIGHTS] == (len(CONTENT), 1)

    def test_a_branch_that_moves_between_the_questions_costs_no_file(self, cache, repo, monkeypatch):
        """What the cache has of an older commit stays, and is not called damaged."""
        path = fetch()
        newer = RemoteFile("f" * 40, etag(WEIGHTS, b"newer"), 5)
        monkeypatch.setattr("erasure_sweep.workers.hub.files._ask", lambda request, file: newer)
        with pytest.raises(DataError, match="broke off: run again"):
            fetch(refresh=True)
        assert path.read_bytes() == CONTENT

    def test_a_pointer_that_leads_nowhere(self, cache, repo):
        fetch().resolve().unlink()
        assert fetch().read_bytes() == CONTENT

    def test_without_symbolic_links(self, hub, cache, repo, monkeypatch):
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
        path = fetch()
        assert path.read_bytes() == CONTENT
        assert not path.is_symlink()
        assert fetch(refresh=True) == path
        assert hub.served[REPO, WEIGHTS].transfers == 1

    def test_two_processes_fetch_once(self, hub, cache, repo):
        """The file is held back until both have asked for it."""
        hub.drips, hub.drip_s = 10_000, 0.1
        repo.faults[WEIGHTS] = "slow"
        processes = [start_fetch(run_environment(hub, cache)) for _ in range(2)]
        wait_until(lambda: sum(request.startswith("HEAD") for request in hub.requests) >= 2, processes[0])
        hub.drip_s = 0
        ended = [process.communicate() for process in processes]
        assert ended == [(f"{fetch()}\n", "")] * 2
        assert hub.served[REPO, WEIGHTS] == (len(CONTENT), 1)

    def test_that_cannot_be_written_to(self, cache, repo):
        (cache / "hub").parent.mkdir(parents=True)
        (cache / "hub").write_text("no folder")
        message = refusal()
        assert message.startswith(f"{WEIGHTS} of {REPO} cannot be written to the Hugging Face cache {cache / 'hub'} (")
        assert message.endswith(": set HF_HOME to another folder")

    def test_without_room(self, hub, cache, repo, monkeypatch):
        usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert refusal().startswith(f"no room on disk for {WEIGHTS} of {REPO} (0.3 MB) in the Hugging Face cache")
        assert (REPO, WEIGHTS) not in hub.served

    def test_without_room_for_what_is_there_under_another_revision(self, hub, cache, repo, monkeypatch):
        repo.revisions["step100"] = {WEIGHTS: CONTENT}
        fetch()
        usage = namedtuple("usage", "total used free")(10**6, 10**6, 0)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert fetch(revision="step100").read_bytes() == CONTENT

    def test_that_fills_the_disk_meanwhile(self, cache, repo, monkeypatch):
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
        assert refusal().startswith(f"no room on disk for {WEIGHTS} of {REPO} in the Hugging Face cache")


class TestProgress:
    def test_none_where_stderr_is_no_terminal(self, hub, cache, repo):
        with start_fetch(run_environment(hub, cache)) as process:
            assert process.communicate()[1] == ""

    def test_on_a_terminal(self, hub, cache, repo):
        screen, stderr = pty.openpty()
        termios.tcsetwinsize(screen, (24, 120))
        with start_fetch(run_environment(hub, cache), stderr) as process:
            process.communicate()
        shown = b""
        while select.select([screen], [], [], 0)[0]:
            shown += os.read(screen, 10_000)
        os.close(stderr)
        os.close(screen)
        assert WEIGHTS in shown.decode()
        assert "300k/300k" in shown.decode()
