"""A loopback stand-in for S3: moto's server in a process of its own, with an empty bucket.

    with S3Server() as s3:
        subprocess.run([..., "--store", s3.uri("trials")], env=os.environ | s3.environment())
        s3.client().list_objects_v2(Bucket=s3.bucket)

``environment`` is all that a client needs; ``use`` sets it in this process for as long as a test lasts. Any key opens the
stand-in until ``ask_for_keys``. What is stored is in the server's memory: it survives ``pause``, not ``stop``. Beyond moto it
verifies the MD5 that a client sends, as S3 does, and lets of several who create an object only one succeed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from tests.support.paths import ROOT

KEY = "stand-in"


class S3Server:
    """Moto's server; it ends with the process that started it.

    Args:
        bucket: is made when the server starts.
        port: to listen on; by default a free one, which later starts take again.
    """

    def __init__(self, bucket: str = "sweeps", port: int = 0) -> None:
        self.bucket = bucket
        self._port = port
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def uri(self, path: str = "") -> str:
        """The address of something in the bucket; of a folder of its own where nothing is named."""
        return f"s3://{self.bucket}/{path or secrets.token_hex(4)}"

    def environment(self) -> dict[str, str]:
        """What points the clients of S3 here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def use(self) -> Iterator[Self]:
        """Point this process' clients here."""
        before = {name: os.environ.get(name) for name in self.environment()}
        os.environ.update(self.environment())
        try:
            yield self
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def client(self) -> Any:
        """A client of its own, which sees what is really stored."""
        import boto3

        names = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY, "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, **names)

    def keys(self, prefix: str = "") -> list[str]:
        """Of the objects in the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def ask_for_keys(self, wanted: bool = True) -> None:
        """Refuse everybody, since the stand-in knows no user; or nobody."""
        self._ask("POST", "moto-api/reset-auth", b"0" if wanted else b"inf")

    def damage_next(self) -> None:
        """Alter the next object on its way in."""
        self._ask("POST", "stand-in/damage")

    def fail_next(self, times: int) -> None:
        """Answer so many requests with 503."""
        self._ask("POST", "stand-in/fail", str(times).encode())

    def start(self) -> None:
        """Start, and return when it answers."""
        command = [sys.executable, "-m", "tests.support.servers.s3", str(self._port)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=nothing, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"the stand-in for S3 does not start: see {' '.join(command)}")
        self._port = int(said)
        self._ask("PUT", self.bucket)

    def stop(self) -> None:
        """End; nothing that was stored stays."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Accept connections, and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _ask(self, method: str, what: str, body: bytes = b"") -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/{what}", data=body, method=method, headers=headers)
        urllib.request.urlopen(request).close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _StandIn:
    """What stands before moto's application."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application
        self._one_writes = threading.Lock()
        self._damages = False
        self._fails = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/stand-in/"):
            return self._order(path, _body_of(environ), start_response)
        if self._fails and not path.startswith("/moto-api/"):
            self._fails -= 1
            return _refuse(start_response, "503 Service Unavailable", "" if method == "HEAD" else "ServiceUnavailable")
        if method != "PUT":
            return self._application(environ, start_response)
        body = _body_of(environ)
        if self._damages and body:
            self._damages, body = False, bytes([body[0] ^ 1]) + body[1:]
        sent = environ.get("HTTP_CONTENT_MD5")
        if sent and base64.b64decode(sent) != hashlib.md5(body).digest():
            return _refuse(start_response, "400 Bad Request", "BadDigest")
        with self._one_writes:
            return self._application({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    def _order(self, path: str, body: bytes, start_response: Callable[..., Any]) -> list[bytes]:
        if path.endswith("/damage"):
            self._damages = True
        else:
            self._fails = int(body)
        start_response("200 OK", [("Content-Length", "0")])
        return []


def _body_of(environ: dict[str, Any]) -> bytes:
    return bytes(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


def _refuse(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    said = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    answer = said.encode() if code else b""  # the answer to HEAD has no body
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(answer)))])
    return [answer]


def _serve(port: int) -> None:
    """Serve until killed, or until the process that started this one is gone."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = _StandIn(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)
    os.environ["MOTO_PORT"] = str(server.port)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
