"""A local web page on which to draw or drop an image and see what the champion predicts.

MLflow's scoring server runs the champion. The server here shows the page, preprocesses each image,
asks the scoring server for logits, and calibrates them. Both listen on the loopback address only.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.errors import UserError, one_line
from striate.models import checkpoint, model_json
from striate.models.checkpoint import Checkpoint
from striate.reporting import html, numbers
from striate.serving import inference, inside, preprocess, registry, sources
from striate.tracking import mlflow_store

HOST = "127.0.0.1"
START_SECONDS = 180.0  # the scoring server loads MLflow and torch
ANSWER_SECONDS = 30.0
LOOKING = threading.Lock()  # one image at a time: each takes all cores
MAX_BYTES = 20_000_000  # of an image file
# The page may load nothing but itself and what it draws.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


class Champion(NamedTuple):
    """The registered model that is served.

    Attributes:
        version: in MLflow's registry.
        accuracy: on the test set.
        trained: its checkpoint, on the CPU, for the view inside.
    """

    version: str
    accuracy: float
    trained: Checkpoint

    @property
    def description(self) -> dict[str, Any]:
        """Of its checkpoint, as in models/model.json."""
        return self.trained.description


def find_champion() -> Champion:
    """Find the current champion.

    Raises:
        UserError: there is none, or MLflow is unreachable.
    """
    with mlflow_store.reachable():
        found = registry.champion(mlflow_store.open_store())
    if found is None:
        raise UserError("there is no champion yet; `striate promote workspace` makes one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = sources.find(f"models:/{registry.NAME}/{found.version}", Path(scratch, "found"))
        trained = checkpoint.load(folder, torch.device("cpu"))
    trained.model.eval()
    return Champion(str(found.version), float(found.tags[registry.ACCURACY]), trained)


def predict(champion: Champion, content: bytes, scoring_url: str) -> dict[str, Any]:
    """Classify an image for the page.

    Args:
        champion: that predicts.
        content: of an image file.
        scoring_url: of MLflow's scoring server.

    Returns:
        `classes`, by falling probability; `unlike`, whether the image is out-of-distribution; and
        `seen`, the preprocessed image as a data URL.

    Raises:
        ImageReadError: the content is not an image.
        OSError: the scoring server does not answer.
    """
    description = champion.description
    peak = description["normalization"]["peak"]
    image = image_reading.read(io.BytesIO(content), "the image")
    pixels = preprocess.prepare(image, description["shape"], peak, description["frame"])
    request = urllib.request.Request(  # noqa: S310  it goes to our own server
        f"{scoring_url}/invocations",
        json.dumps({"inputs": [pixels.tolist()]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:  # noqa: S310
        logits = torch.tensor(json.load(response)["predictions"])
    return _answer(champion, logits, pixels)


def look_inside(champion: Champion, content: bytes) -> dict[str, Any]:
    """Classify an image in this process, and say what happens inside the network.

    Args:
        champion: that predicts.
        content: of an image file.

    Returns:
        What `predict` gives and what `inside.look` gives; and `source` and `target`, of
        `preprocess.Placed`.

    Raises:
        ImageReadError: the content is not an image.
    """
    description = champion.description
    image = image_reading.read(io.BytesIO(content), "the image")
    placed = preprocess.place(
        image, description["shape"], description["normalization"]["peak"], description["frame"]
    )
    with LOOKING:
        logits, found = inside.look(champion.trained, placed.pixels)
    where = {"source": placed.source, "target": placed.target}
    return _answer(champion, logits, placed.pixels) | found | where


def _answer(champion: Champion, logits: torch.Tensor, pixels: np.ndarray) -> dict[str, Any]:
    """What `predict` returns."""
    description = champion.description
    (prediction,) = inference.calibrated(logits, description["confidence"])
    ranked = sorted(
        zip(prediction.probabilities, description["classes"], strict=True),
        key=lambda pair: -pair[0],
    )
    view = inference.view(pixels, description["normalization"]["peak"])
    return {
        "classes": [{"name": name, "probability": probability} for probability, name in ranked],
        "unlike": prediction.out_of_distribution,
        "seen": html.png_address(view),
    }


def page(champion: Champion) -> str:
    """Render the page as HTML."""
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
        filtered=sorted(inside.filters(champion.trained)),
    )


def free_port() -> int:
    """A free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server(ThreadingHTTPServer):
    """Serves the page and its predictions on the loopback address."""

    def __init__(self, champion: Champion, port: int, scoring_port: int) -> None:
        self.champion = champion
        self.scoring_url = f"http://{HOST}:{scoring_port}"
        self.page = page(champion).encode()
        self.filters = inside.filters(champion.trained)
        super().__init__((HOST, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what a request raises, unless the browser closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request: `GET /`, `GET /filter/LAYER/CHANNEL`, or an image file to a `POST`."""

    server: Server

    def do_GET(self) -> None:
        """Send the page, or the filter of a channel."""
        if not self._is_same_origin():
            return
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", self.server.page)
            return
        match = re.fullmatch(r"/filter/(\w+)/([0-9]{1,6})", self.path)
        try:
            if match is None:
                raise KeyError(self.path)
            found = inside.filter_png(self.server.filters, match[1], int(match[2]))
        except (KeyError, IndexError):
            self._refuse(404, "not found")
        else:
            self._send(200, "application/json", json.dumps(found).encode())

    def do_POST(self) -> None:
        """Classify the image in the body; with `/inside`, say what happens in the network, too."""
        if not self._is_same_origin():
            return
        if self.path not in ("/predict", "/inside"):
            self._refuse(404, "not found")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._refuse(411, "Content-Length must be the size of the image in bytes")
            return
        if int(length) > MAX_BYTES:
            self._refuse(413, f"an image may have {MAX_BYTES // 10**6} MB at most")
            return
        try:
            content = self.rfile.read(int(length))
            if self.path == "/inside":
                answer = look_inside(self.server.champion, content)
            else:
                answer = predict(self.server.champion, content, self.server.scoring_url)
        except ImageReadError as error:
            self._refuse(400, str(error))
        except RuntimeError as error:  # PyTorch's, such as of a full memory
            self._refuse(500, one_line(error))
        except (OSError, ValueError, KeyError):
            self._refuse(502, "the scoring server does not answer")
        else:
            self._send(200, "application/json", json.dumps(answer).encode())

    def _is_same_origin(self) -> bool:
        """Refuse requests from other pages in the same browser, or to another host name."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in hosts and (
            origin is None or origin.removeprefix("http://") in hosts
        ):
            return True
        self._refuse(403, "this page answers requests to its own address only")
        return False

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True  # the rest of the request is not read
        self._send(status, "application/json", json.dumps({"error": reason}).encode())

    def _send(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: the page shows errors."""


def server(champion: Champion, port: int, scoring_port: int) -> Server:
    """Bind the page's server, which the caller starts with `serve_forever`.

    Args:
        champion: that predicts.
        port: of the page; 0 takes a free one.
        scoring_port: of MLflow's scoring server.

    Raises:
        UserError: the port is in use.
    """
    try:
        return Server(champion, port, scoring_port)
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used: {error.strerror}; choose another: --port 8001"
        ) from None


@contextmanager
def scoring_server(version: str, port: int, device: torch.device) -> Iterator[None]:
    """Run MLflow's scoring server for a version of the registered model; stop it on exit.

    Args:
        version: in MLflow's registry.
        port: a free one.
        device: that computes.

    Raises:
        UserError: it does not start.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with mlflow_store.reachable():
            model = registry.servable(version, device, Path(scratch))
        with _scoring_process(model, port, device.type):
            yield


@contextmanager
def _scoring_process(model: str, port: int, device: str) -> Iterator[None]:
    """Run MLflow's scoring server for the model at an address; stop it on exit."""
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local",
        "--host", HOST, "--port", str(port),
    ]  # fmt: skip
    variables = {
        # By itself MLflow takes CUDA where there is any, and refuses a network of the CPU there.
        "MLFLOW_DEFAULT_PREDICTION_DEVICE": device,
        "MLFLOW_TRACKING_URI": mlflow_store.tracking_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    mlflow_store.bypass_proxy()
    with tempfile.TemporaryFile() as log:
        # In a process group of its own, so that its children end with it.
        process = subprocess.Popen(
            command, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = f"http://{HOST}:{port}"
            if not _answers(url, process):
                log.seek(0)
                last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                raise UserError(f"MLflow's scoring server does not start: {''.join(last)}")
            yield
        finally:
            # Also if it has ended by itself: its children may still run.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a server answers; return False if it ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5).close()  # noqa: S310
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
