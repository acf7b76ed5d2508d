"""What the Hugging Face hub, or a loopback stand-in for it, answers to questions: revisions, listings and refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from erasure_sweep.workers.hub import files as hub_files
from erasure_sweep.workers.hub.files import check_hub, hub_file, list_files
from tests.support.servers.hub import Repo, refused_soon

REPO = "NeelNanda/GELU_1L512W_C4_Code"
WEIGHTS = "model_final.pth"
FILES = ("config.json", WEIGHTS)
CONTENT = b"weights" * 1000


@pytest.fixture
def repo(hub):
    return hub.add("models", REPO, {"config.json": b"{}", WEIGHTS: CONTENT})


def fetch(file: str = WEIGHTS, revision: str | None = None, refresh: bool = False) -> Path:
    return hub_file(REPO, file, FILES, revision, refresh=refresh)


def refusal(ask: Callable[[], object] = fetch) -> str:
    return refused_soon(ask)


class TestRevisions:
    @pytest.fixture(autouse=True)
    def stepped(self, repo: Repo) -> None:
        repo.revisions |= {"step100": {WEIGHTS: b"early"}, "refs/pr/1": {WEIGHTS: b"proposed"}}

    def test_each_has_files_of_its_own(self, hub, cache, repo):
        found = {name: fetch(revision=name) for name in ("main", "step100", "refs/pr/1", repo.sha_of("step100"))}
        assert [path.read_bytes() for path in found.values()] == [CONTENT, b"early", b"proposed", b"early"]
        assert found["step100"].parent.name == repo.sha_of("step100") != repo.sha
        hub.stop()
        assert {name: fetch(revision=name) for name in found} == found

    def test_unknown(self, hub, cache, repo):
        expected = f"{REPO} on {hub.url} has no revision step7"
        assert refusal(lambda: fetch(revision="step7")) == expected
        assert refusal(lambda: list_files(REPO, "step7")) == expected
        assert refusal(lambda: check_hub(REPO, WEIGHTS, "step7")) == expected

    def test_a_branch_that_moved_on_is_seen_when_asked(self, hub, cache, repo):
        old = fetch()
        assert fetch(refresh=True) == old
        assert hub.served[REPO, WEIGHTS].transfers == 1
        repo.files[WEIGHTS] = b"new"
        assert fetch() == old
        assert fetch(refresh=True).read_bytes() == b"new"
        assert fetch().read_bytes() == b"new"


class TestListing:
    def test_commit_and_files(self, hub, cache, repo):
        repo.files["checkpoints/model_100.pth"] = b"1"
        repo.revisions["empty"] = {}
        assert list_files(REPO) == (repo.sha, ("checkpoints/model_100.pth", "config.json", WEIGHTS))
        assert list_files(REPO, "empty") == (repo.sha_of("empty"), ())
        assert len(hub.requests) == 2

    def test_offline(self, hub, cache, repo, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = refusal(lambda: list_files(REPO))
        assert message.startswith(f"the list of files of {REPO} is not in the Hugging Face cache and HF_HUB_OFFLINE is")
        assert message.endswith("give the folder it fills as --staging DIR")
        assert hub.requests == []

    def test_size_without_a_download(self, hub, cache, repo):
        repo.cdn = True
        assert check_hub(REPO, WEIGHTS) == len(CONTENT)
        assert [request.split()[0] for request in hub.requests] == ["HEAD"]


class TestRefused:
    """One line, soon, that names the file and what to do."""

    ASKED = pytest.mark.parametrize(
        "ask", [fetch, lambda: check_hub(REPO, WEIGHTS), lambda: list_files(REPO)], ids=["file", "check", "list"]
    )

    def test_unreachable(self, hub, cache):
        hub.stop()
        message = refusal()
        assert message.startswith(f"{hub.url} cannot be reached for {WEIGHTS} of {REPO} (")
        assert f"`hf download {REPO} config.json {WEIGHTS}`" in message
        assert message.endswith(f"copy it to {cache / 'hub'}, or give --model DIR")
        assert f"`hf download {REPO} config.json {WEIGHTS} --revision step100`" in refusal(
            lambda: fetch(revision="step100")
        )

    def test_half_of_a_repository_names_what_is_missing(self, hub, cache, repo):
        commit = fetch("config.json").parent.name
        hub.stop()
        message = refusal(lambda: fetch(revision=commit))
        assert f"cannot be reached for {WEIGHTS} of {REPO}" in message
        assert f"`hf download {REPO} config.json {WEIGHTS}`" in message

    def test_offline(self, hub, cache, repo, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        start = f"{WEIGHTS} of {REPO} is not in the Hugging Face cache and HF_HUB_OFFLINE is set: stage it where there"
        assert refusal().startswith(start)
        assert hub.requests == []

    @ASKED
    def test_missing_repository(self, ask, hub, cache):
        assert refusal(ask).startswith(f"{hub.url} has no repository {REPO}, or it is private")

    @ASKED
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("gated", f"{REPO} is gated: accept its terms on"),
            ("private", f"has no repository {REPO}, or it is private: check the name, or `hf auth login`"),
            ("broken", "answers 503 for "),
        ],
    )
    def test_refusing_repository(self, ask, status, expected, cache, repo):
        repo.status = status
        assert expected in refusal(ask)

    def test_missing_file(self, hub, cache, repo):
        del repo.files[WEIGHTS]
        assert refusal() == f"{REPO} on {hub.url} holds no {WEIGHTS}"
        assert refusal(lambda: check_hub(REPO, WEIGHTS)) == f"{REPO} on {hub.url} holds no {WEIGHTS}"

    def test_gated_between_the_question_and_the_download(self, hub, cache, repo, monkeypatch):
        asked = hub_files._ask
        monkeypatch.setattr(hub_files, "_ask", lambda *a: (asked(*a), setattr(repo, "status", "gated"))[0])
        assert refusal().startswith(f"{REPO} is gated: accept its terms on")

    @pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "checkpoints/../../x"])
    def test_a_file_outside_of_the_repository(self, name, hub, cache, repo):
        assert refusal(lambda: fetch(name)) == f"{REPO} names a file outside of itself: {name}"
        assert hub.requests == []

    def test_a_name_that_cannot_be(self, hub, cache):
        assert "no repository can have this name" in refusal(lambda: hub_file("a--b/c", WEIGHTS, FILES))
        assert "no repository can have this name" in refusal(lambda: list_files("a--b/c"))

    @ASKED
    def test_what_is_no_hub(self, ask, cache, monkeypatch):
        """A page of some proxy, for instance, that is answered to everything."""
        server = HTTPServer(("127.0.0.1", 0), LoginPage)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert refusal(ask).startswith(f"{url} does not answer as a Hugging Face hub for ")
        server.shutdown()
        server.server_close()

    def test_tokens_stay_with_the_hub(self, hub, cache, repo, monkeypatch):
        """Large files come from another host, which must not be shown them."""
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        repo.cdn = True
        fetch()
        assert any(request.startswith("GET /cdn/") for request in hub.requests)
        assert {host for host, _ in hub.authorized} == {"127.0.0.1"}


class LoginPage(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"<html>log in</html>")

    def log_message(self, *_: object) -> None: ...
