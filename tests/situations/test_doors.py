"""A machine that others use as well."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest

from erasure_sweep.sweep.execution.ray.actor import shard_worker_actor
from erasure_sweep.sweep.execution.ray.cluster import connect
from tests.support.listening import ListeningSocket, listening_sockets

pytestmark = pytest.mark.xdist_group("ray")

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class LocalRun(NamedTuple):
    """What a run on this machine has open while it measures."""

    home: Path
    session: Path
    head: str
    """Address that Ray's processes know each other by."""
    listening: list[ListeningSocket]
    variables: dict[str, str]


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    """Ray on this machine with a worker, started by a user whose home folder others may read."""
    import ray

    home = tmp_path_factory.mktemp("home")
    home.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        cluster = connect(None, 1)
        try:
            worker = shard_worker_actor().options(num_cpus=1).remote(threads=1)
            ray.get(worker.ping.remote())
            context = ray.get_runtime_context()
            session = Path(ray._private.worker._global_node.get_session_dir_path())
            yield LocalRun(home, session, context.gcs_address, listening_sockets(psutil.Process()), dict(os.environ))
        finally:
            cluster.close()


def test_ray_of_a_local_run_listens_on_loopback_alone(local_run: LocalRun) -> None:
    """A local run on a machine in a network

    Every server of Ray listens on loopback, none on another address of the machine; those of metrics are not started.
    """
    assert len(local_run.listening) > 5
    assert [found for found in local_run.listening if found.host not in LOOPBACK] == []
    assert {44217, 44227}.isdisjoint(found.port for found in local_run.listening)


def test_another_user_finds_neither_the_token_nor_the_session(local_run: LocalRun) -> None:
    """A local run, and a home folder that others may read

    Ray's token is drawn for the run and stands in no file; Ray's folder is the user's alone.
    """
    assert list(local_run.home.rglob("*")) == []
    assert "RAY_AUTH_TOKEN" not in local_run.variables
    assert any(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in local_run.session.parents)
    assert len(_token()) == 64


def test_without_the_token_nothing_is_answered(local_run: LocalRun) -> None:
    """Another user of the machine who tries the ports of a local run

    Whoever lacks the token is refused, by Ray's head and by its web servers; only "are you alive" is answered.
    """
    assert _ask_head(local_run.head, _token()) is grpc.StatusCode.OK
    assert {_ask_head(local_run.head, other) for other in ("", "0" * 64)} == {grpc.StatusCode.UNAUTHENTICATED}
    answers = [_post(port) for _, _, port in local_run.listening]
    assert 401 in answers and not any(code is not None and code < 400 for code in answers), answers


def _token() -> str:
    """What the processes of this run prove themselves with; the system shows it to this user alone."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found.add(process.environ().get("RAY_AUTH_TOKEN"))
    (token,) = found - {None}
    return str(token)


def _ask_head(address: str, token: str) -> grpc.StatusCode:
    """How a question to Ray's head for its nodes is answered."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        try:
            ask(b"", metadata=[("authorization", f"Bearer {token}")] if token else [])
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _post(port: int) -> int | None:
    """The status that a request to run something is answered with; None where no web server listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/job_agent/jobs/", data=b'{"entrypoint": "true"}')
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
    except Exception:  # noqa: BLE001 another protocol than HTTP
        return None
