"""A Ray cluster on this machine that only its run can reach, and that nothing in the launch environment changes.

By itself Ray listens on every interface, keeps its token in a file that others can read, lets everybody write into its
session's folder, and takes from the environment what describes other clusters and jobs: addresses, tokens, runtime
environments, the ``uv run`` around it. Here it listens on loopback, the token is the run's own and in its memory alone, and
the folder is its user's. Ray's tunables in lower case (``RAY_memory_usage_threshold``) are heeded.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erasure_sweep.workers.storage.temporary_folder import PREFIX, TemporaryFolder

OBJECT_STORE_BYTES = 2**30
_LOOPBACK = "127.0.0.1"
_SOCKET_PATH = 107
"""Characters that the path of a socket may have."""
_SOCKET = f"/{PREFIX}12345678/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_SHARED_MEMORY = Path("/dev/shm")


class LocalCluster:
    """Ray on this machine, from its start until ``close``, which comes after Ray's own end.

    Args:
        cpus: slots for workers.
        options: further ones of ``ray.init``.

    Raises:
        Exception: whatever keeps Ray from starting.
    """

    def __init__(self, cpus: int, options: dict[str, Any]) -> None:
        import ray

        self._folder = TemporaryFolder(_parent())
        try:
            with _alone():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address=_LOOPBACK,
                    _temp_dir=str(
                        self._folder.path / "ray"
                    ),  # which Ray opens to everybody, within a folder that is not
                    _plasma_directory=None if _is_writable(_SHARED_MEMORY) else str(self._folder.path),
                    _system_config={"enable_metrics_collection": False},  # which would open two more ports
                    **options,
                )
            addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
            if addresses != {_LOOPBACK}:
                raise RuntimeError(f"it listens on {', '.join(sorted(addresses))}, and not on loopback alone")
        except BaseException:
            ray.shutdown()
            self.close()
            raise

    def close(self) -> None:
        """Remove what Ray kept in files, and forget its token."""
        self._folder.close()
        refresh_config()


def start_local_cluster(cpus: int, options: dict[str, Any]) -> LocalCluster:
    """A cluster on this machine, tried twice where it is busy: Ray gives its own processes half a minute to start.

    Args:
        cpus, options: of ``LocalCluster``.

    Raises:
        Exception: whatever keeps Ray from starting.
    """
    try:
        return LocalCluster(cpus, options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        return LocalCluster(cpus, options)


def _parent() -> Path:
    """Where Ray's files go: the first of the usual places that is not too deep for its sockets."""
    usual = (os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), tempfile.gettempdir(), "/tmp")
    fitting = (place for place in usual if len(os.fsencode(place)) + len(_SOCKET) <= _SOCKET_PATH)
    return Path(next(fitting, tempfile.gettempdir()))


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made there; on a read-only file system permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def _alone() -> Iterator[None]:
    """While Ray starts: no variable or command line of other clusters and jobs, a token of its own, loopback."""
    from ray._private import ray_constants

    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # No such port: these servers of figures, which ask for no token, stay away.
        "AUTOSCALER_METRIC_PORT": "-1",
        "DASHBOARD_METRIC_PORT": "-1",
    }
    before = {name: os.environ.pop(name) for name in _others(own)}
    # Ray takes loopback for its address only where it allows no clusters, as by default on macOS.
    settings = {"ENABLE_RAY_CLUSTER": False, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": False}
    settings_before = {name: getattr(ray_constants, name) for name in settings}
    try:
        os.environ |= own
        refresh_config()
        for name, value in settings.items():
            setattr(ray_constants, name, value)
        yield
    finally:
        for name, value in settings_before.items():
            setattr(ray_constants, name, value)
        for name in _others(own):
            del os.environ[name]
        os.environ |= before


def _others(own: Container[str]) -> list[str]:
    """The variables that are set now and mean another cluster, or will when these are set again."""
    return [name for name in os.environ if name in own or (name.startswith("RAY_") and name.isupper())]


def refresh_config() -> None:
    """Let Ray read its variables anew, how it proves itself among them; it remembers what it first saw."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
