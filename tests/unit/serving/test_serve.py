"""The page on which the champion is asked, without its scoring server."""

import base64
import http.client
import io
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from checkpoints import describe
from networks import build
from PIL import Image

from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import checkpoint
from striate.models.checkpoint import Checkpoint
from striate.models.normalization import Normalization
from striate.serving import preprocess, web


@pytest.fixture(scope="module")
def champion():
    description = describe() | {"classes": ["a", "b", "</script>"]}
    confidence = {"temperature": 2.0, "energy": 0.0}
    return web.Champion("7", 0.5, untrained(description | {"confidence": confidence}))


def untrained(description):
    """A checkpoint with random weights."""
    model = checkpoint.build(description).eval()
    normalization = Normalization(**description["normalization"])
    return Checkpoint(model, normalization, description["classes"], description)


class Scoring(BaseHTTPRequestHandler):
    """Stands for MLflow's scoring server: logits that are always the same."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(np.array(asked["inputs"]))
        reply = json.dumps(self.server.reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(champion):
    """A page, and the stand-in that it asks."""
    scoring = ThreadingHTTPServer(("127.0.0.1", 0), Scoring)
    scoring.asked, scoring.reply = [], {"predictions": [[0.0, 4.0, 2.0]]}
    port = web.free_port()
    page = web.server(champion, port, scoring.server_port)
    threads = [threading.Thread(target=one.serve_forever) for one in (scoring, page)]
    for thread in threads:
        thread.start()
    yield SimpleNamespace(port=port, scoring=scoring)
    for one, thread in zip((scoring, page), threads, strict=True):
        one.shutdown()
        thread.join()
        one.server_close()


def ask(site, method, path, body=None, **headers):
    """The status, the headers and the content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def drawn():
    """A black stroke on white paper, much larger than what the network takes."""
    paper = np.full((280, 280), 255, np.uint8)
    paper[60:220, 130:160] = 0
    return png(paper)


def test_a_picture_is_brought_to_what_the_network_takes_and_answered(site):
    status, _, content = ask(site, "POST", "/predict", drawn())
    assert status == 200
    answer = json.loads(content)
    (pixels,) = site.scoring.asked[-1]
    assert pixels.shape == (1, 8, 8)
    assert pixels[0, 0].max() == 0  # a dark background, as the network knows it
    assert pixels[0, 3:5, 3:5].max() == 255
    assert [row["name"] for row in answer["classes"]] == ["b", "</script>", "a"]
    shares = np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum()  # at temperature 2
    assert [row["probability"] for row in answer["classes"]] == pytest.approx(shares.tolist())
    assert answer["unlike"] is False
    assert answer["seen"].startswith("data:image/png;base64,")


def test_inside_are_the_maps_of_each_layer_and_the_evidence(site, champion):
    status, _, content = ask(site, "POST", "/inside", drawn())
    assert status == 200
    found = json.loads(content)
    assert [(layer["name"], layer["channels"]) for layer in found["layers"]] == [
        ("layer1", 4), ("layer2", 8),
    ]  # fmt: skip
    (left, top, wide, high), target = found["source"], found["target"]
    assert (left, top) == pytest.approx((130 / 280, 60 / 280), abs=0.02)
    assert (wide, high) == pytest.approx((30 / 280, 160 / 280), abs=0.04)
    assert target[3] == 6  # the extent of the training images is 0.75 of 8
    pixels = preprocess.prepare(
        Image.open(io.BytesIO(drawn())), (1, 8, 8), 255, champion.description["frame"]
    )
    inputs = champion.trained.normalization(torch.from_numpy(pixels)[None])
    with torch.no_grad():
        maps = champion.trained.model.layers()["layer1"](inputs)[0].numpy()
    shown = tiles(found["layers"][0]["maps"], found["layers"][0]["columns"])
    expected = (maps - min(0, maps.min())) / (maps.max() - min(0, maps.min()))
    assert shown == pytest.approx(expected, abs=0.01)
    heat = np.asarray(opened(found["heat"]))
    assert heat.shape == (8, 8, 4)
    assert heat[..., 3].max() > 200
    # The same answer as that of the scoring server's network, which is this one.
    shares = torch.softmax(champion.trained.model(inputs) / 2, 1)[0].tolist()
    by_name = {row["name"]: row["probability"] for row in found["classes"]}
    assert [by_name[name] for name in champion.trained.classes] == pytest.approx(shares)


def opened(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def tiles(address, columns):
    """The tiles of a picture of four, from 0 to 1, without the clear gaps between them."""
    pixels = np.asarray(opened(address), float) / 255
    rows = [np.hsplit(row, columns) for row in np.vsplit(pixels, 4 // columns)]
    cells = np.array([cell for row in rows for cell in row])
    gap = cells[..., 1] == 0
    assert gap[:, -1].all()
    assert gap[:, :, -1].all()
    assert not gap[:, :-1, :-1].any()
    return cells[:, :-1, :-1, 0]


def test_a_filter_is_shown_for_each_input_channel(site, champion):
    status, _, content = ask(site, "GET", "/filter/layer2/5")
    found = json.loads(content)
    assert (status, found["inputs"], found["shown"]) == (200, 4, 4)
    kernel = champion.trained.model.layers()["layer2"][0].weight[5].detach().numpy()
    shown = tiles(found["png"], found["columns"])
    assert shown == pytest.approx(0.5 + kernel / (2 * np.abs(kernel).max()), abs=0.01)


def test_the_page_may_load_nothing_from_elsewhere_and_shows_names_as_text(site):
    status, headers, content = ask(site, "GET", "/")
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    text = content.decode()
    assert text.count("</script>") == 1  # the one of the page, not the class that is called so
    assert "Version 7" in text
    assert "https://" not in text


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("GET", "/etc/passwd", None, {}, 404, "not found"),
        ("GET", "/filter/layer9/0", None, {}, 404, "not found"),
        ("GET", "/filter/layer1/4", None, {}, 404, "not found"),
        ("GET", "/filter/layer1/-1", None, {}, 404, "not found"),
        ("POST", "/", b"x", {}, 404, "not found"),
        ("POST", "/inside", b"no image", {}, 400, "the image cannot be read"),
        ("POST", "/predict", b"no image", {}, 400, "the image cannot be read"),
        ("POST", "/predict", b"", {}, 400, "the image cannot be read"),
        ("POST", "/predict", None, {"Content-Length": "99999999999"}, 413, "20 MB at most"),
        (
            "POST",
            "/predict",
            None,
            {"Content-Length": "-1"},
            411,
            "Content-Length must be the size",
        ),
        ("GET", "/", None, {"Host": "evil.example"}, 403, "to its own address only"),
        ("POST", "/predict", b"x", {"Origin": "http://evil.example"}, 403, "own address only"),
        ("POST", "/predict", b"x", {"Origin": "null"}, 403, "to its own address only"),
    ],
)
def test_what_is_refused(site, method, path, body, headers, status, said):
    found, _, content = ask(site, method, path, body, **headers)
    assert found == status
    assert said in json.loads(content)["error"]


def test_its_own_page_may_ask_by_either_name(site):
    for name in ("127.0.0.1", "localhost"):
        address = f"{name}:{site.port}"
        status, _, _ = ask(
            site, "POST", "/predict", drawn(), Host=address, Origin=f"http://{address}"
        )
        assert status == 200


def test_a_scoring_server_that_has_gone_or_says_rubbish_is_told(site, champion):
    site.scoring.reply, kept = {"error": 1}, site.scoring.reply
    try:
        status, _, content = ask(site, "POST", "/predict", drawn())
    finally:
        site.scoring.reply = kept
    assert (status, json.loads(content)) == (502, {"error": "the scoring server does not answer"})


def test_a_browser_that_does_not_wait_is_nothing_to_speak_of(site, capfd):
    content = drawn()
    head = (
        f"POST /predict HTTP/1.0\r\nHost: 127.0.0.1:{site.port}\r\nContent-Length: {len(content)}"
    )
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", site.port)) as caller:
            # Closed with this, a connection is reset at once.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.sendall(f"{head}\r\n\r\n".encode() + content)
    assert ask(site, "POST", "/predict", drawn())[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_one_line(site, champion):
    with pytest.raises(UserError, match=f"port {site.port} cannot be used: .*; choose another"):
        web.server(champion, site.port, 1)


def test_a_network_that_is_not_calibrated_says_so(champion):
    plain = champion._replace(trained=untrained(champion.description | {"confidence": None}))
    assert "percentages are not calibrated" in web.page(plain)
    assert "percentages are not calibrated" not in web.page(champion)


def test_the_scoring_server_computes_on_the_device_that_is_chosen(tmp_path, monkeypatch):
    started = []

    def start(command, *, env, **_):
        started.append(
            (command[command.index("-m", 2) + 1], env["MLFLOW_DEFAULT_PREDICTION_DEVICE"])
        )
        return SimpleNamespace(pid=2**22 + 1, wait=lambda: None)

    program = torch.export.export(torch.nn.Linear(2, 3), (torch.zeros(1, 2),))
    (tmp_path / "data").mkdir()
    torch.export.save(program, tmp_path / "data/model.pt2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: str(tmp_path))
    monkeypatch.setattr(web.subprocess, "Popen", start)
    monkeypatch.setattr(web, "_answers", lambda *_: True)
    monkeypatch.setattr(web.os, "killpg", lambda *_: None)
    for name in ("cpu", "meta"):
        with web.scoring_server("7", 1, torch.device(name)):
            pass
    assert started == [("models:/striate/7", "cpu"), (str(tmp_path), "meta")]
    moved = torch.export.load(tmp_path / "data/model.pt2").module()
    assert {value.device.type for value in moved.parameters()} == {"meta"}


def test_without_a_champion_it_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match="there is no champion yet; `striate promote workspace`"):
        web.find_champion()


def test_the_filters_of_a_layer_are_those_of_its_last_convolution():
    def shapes(shape=(3, 32, 32), **changes):
        model = build(shape, **changes).eval()
        maps = inspection.feature_maps(model, torch.zeros(1, *shape))
        channels = {name: value.shape[1] for name, value in maps.items()}
        found = inspection.last_filters(model, channels)
        assert all(len(found[name]) == channels[name] for name in found)
        return {name: tuple(weight.shape[1:]) for name, weight in found.items()}

    # Not the skip connection, which has 1×1 filters.
    residual = shapes(width=4, layers=2, kernel_size=3, convs_per_layer=2, residual=True)
    assert residual == {"layer1": (4, 3, 3), "layer2": (8, 3, 3)}
    stages = shapes(arch="resnet", width=4, layers=1, kernel_size=3)
    assert stages["stage2"] == (8, 3, 3)
    assert shapes(arch="timm:resnet18").keys() <= {f"stage{n}" for n in range(1, 6)}
