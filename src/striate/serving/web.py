"""A page on this machine where a person draws or drops a picture and sees what the champion says.

The champion runs in MLflow's own scoring server. This one shows the page, brings each picture to
what the network takes, asks the scoring server, and says how far the answer is to be believed. Both
listen on the loopback address only.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import torch

from striate.datasets import image_reading
from striate.datasets.image_reading import PictureError
from striate.errors import UserError
from striate.models import checkpoint, model_json
from striate.reporting import html, numbers
from striate.serving import inference, preprocess, registry, sources
from striate.tracking import mlflow_store

HOST = "127.0.0.1"
START_SECONDS = 180.0  # for the scoring server, which loads MLflow and torch
ANSWER_SECONDS = 30.0
MOST_BYTES = 20_000_000  # of a picture
# What the page may load: nothing but itself, and what it draws.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


class Champion(NamedTuple):
    """The registered model that is served.

    Attributes:
        version: in MLflow's registry.
        accuracy: on its test images.
        description: of its checkpoint.
    """

    version: str
    accuracy: float
    description: dict[str, Any]


def find_champion() -> Champion:
    """The present champion.

    Raises:
        UserError: there is none, or MLflow cannot be reached.
    """
    with mlflow_store.reachable():
        found = registry.champion(mlflow_store.open_store())
    if found is None:
        raise UserError("there is no champion yet; `striate promote workspace` makes one")
    with tempfile.TemporaryDirectory() as scratch:
        place = sources.find(f"models:/{registry.NAME}/{found.version}", Path(scratch, "found"))
        description = checkpoint.load(place, torch.device("cpu")).description
    return Champion(str(found.version), float(found.tags[registry.ACCURACY]), description)


def answer(champion: Champion, content: bytes, scoring: str) -> dict[str, Any]:
    """What the champion makes of a picture, for the page.

    Args:
        champion: that is asked.
        content: of a file with a picture.
        scoring: the address of MLflow's scoring server.

    Raises:
        PictureError: the content is no picture.
        OSError: the scoring server does not answer.
    """
    description = champion.description
    peak = description["normalization"]["peak"]
    picture = image_reading.read(io.BytesIO(content), "the picture")
    pixels = preprocess.prepare(picture, description["shape"], peak, description["frame"])
    asked = urllib.request.Request(  # noqa: S310  it is ours
        f"{scoring}/invocations",
        json.dumps({"inputs": [pixels.tolist()]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=ANSWER_SECONDS) as reply:  # noqa: S310
        logits = torch.tensor(json.load(reply)["predictions"])
    (verdict,) = inference.judge(logits, description["confidence"])
    shares = sorted(
        zip(verdict.probabilities, description["classes"], strict=True), key=lambda pair: -pair[0]
    )
    buffer = io.BytesIO()
    inference.view(pixels, peak).save(buffer, "png")
    return {
        "classes": [{"name": name, "probability": share} for share, name in shares],
        "unlike": verdict.unlike,
        "seen": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
    }


def page(champion: Champion) -> str:
    """The page itself."""
    description = champion.description
    return html.render(
        "serve.html.j2",
        version=champion.version,
        data=description["data"],
        classes=description["classes"],
        shape=description["shape"],
        accuracy=numbers.percent(champion.accuracy),
        calibrated=description["confidence"] is not None,
        false_alarms=numbers.percent(model_json.FALSE_ALARMS, 0),
    )


class Server(ThreadingHTTPServer):
    """A server that says nothing of a browser that did not wait for its answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Anything else that a request raises is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def server(champion: Champion, port: int, scoring: int) -> ThreadingHTTPServer:
    """A server of the page and of its answers, on the loopback address; it is not yet running.

    Args:
        champion: that is asked.
        port: of the page; 0 takes any that is free.
        scoring: the port of MLflow's scoring server.

    Raises:
        UserError: the port is taken.
    """
    text = page(champion).encode()

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        server: ThreadingHTTPServer

        def do_GET(self) -> None:
            if self._is_ours():
                if self.path == "/":
                    self._send(200, "text/html; charset=utf-8", text)
                else:
                    self._refuse(404, "there is nothing here")

        def do_POST(self) -> None:
            if not self._is_ours():
                return
            if self.path != "/predict":
                self._refuse(404, "there is nothing here")
                return
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                self._refuse(411, "Content-Length must say how many bytes the picture has")
                return
            if int(length) > MOST_BYTES:
                self._refuse(413, f"a picture may have {MOST_BYTES // 10**6} MB at most")
                return
            try:
                content = self.rfile.read(int(length))
                found = answer(champion, content, f"http://{HOST}:{scoring}")
            except PictureError as error:
                self._refuse(400, str(error))
            except (OSError, ValueError, KeyError):
                self._refuse(502, "the scoring server does not answer")
            else:
                self._send(200, "application/json", json.dumps(found).encode())

        def _is_ours(self) -> bool:
            """Refuse what another page in the same browser, or another name, sends here."""
            own = self.server.server_port
            names = {f"{HOST}:{own}", f"localhost:{own}"}
            origin = self.headers.get("Origin")
            if self.headers.get("Host") in names and (
                origin is None or origin.removeprefix("http://") in names
            ):
                return True
            self._refuse(403, "this page answers on its own address only")
            return False

        def _refuse(self, status: int, reason: str) -> None:
            self.close_connection = True  # what it still has to say is not read
            self._send(status, "application/json", json.dumps({"error": reason}).encode())

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing: the page shows what is wrong."""

    try:
        return Server((HOST, port), Handler)
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used: {error.strerror}; name another: --port 8001"
        ) from None


@contextmanager
def scoring_server(version: str, port: int) -> Iterator[None]:
    """MLflow's scoring server of a version of the champion, from when it answers.

    Raises:
        UserError: it does not start.
    """
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m",
        f"models:/{registry.NAME}/{version}", "--env-manager", "local", "--host", HOST,
        "--port", str(port),
    ]  # fmt: skip
    settings = {
        "MLFLOW_TRACKING_URI": mlflow_store.tracking_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    mlflow_store.spare_loopback()
    with tempfile.TemporaryFile() as said:
        # In a session of its own, so that all that it starts can be ended together.
        running = subprocess.Popen(
            command, env=os.environ | settings, stdout=said, stderr=said, start_new_session=True
        )
        try:
            address = f"http://{HOST}:{port}"
            if not _answers(address, running):
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"MLflow's scoring server does not start: {''.join(last)}")
            yield
        finally:
            # It may have ended by itself, and what it started may not.
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGTERM)
            running.wait()


def _answers(address: str, running: subprocess.Popen[bytes]) -> bool:
    """Wait until a server answers; False where it has ended or takes too long."""
    end = time.monotonic() + START_SECONDS
    while running.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()  # noqa: S310
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
