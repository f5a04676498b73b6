"""A trained network as one file for other programs, and the proof that the file does the same.

Every file takes pixels as they were published, float32 (N, C, H, W) with any N, and gives logits,
float32 (N, classes); how the pixels are to be read and what the classes are is written into it.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from striate.data import files
from striate.models import checkpoint, prediction
from striate.models.checkpoint import Checkpoint, Pixels

ENDINGS = {"onnx": "onnx", "pt2": "pt2", "safetensors": "safetensors"}
NOTE = "striate"  # the key under which a file holds its description
CALIBRATION_IMAGES = 1000  # training images from which the ranges of int8 numbers are taken
BATCH = 256
TIMED_BATCHES = (1, 256)
TIMED_SECONDS = 1.0  # for each network and each size of batch
LEAST_ROUNDS, MOST_ROUNDS = 5, 200

Network = Callable[[np.ndarray], np.ndarray]  # pixels → logits


class Check(NamedTuple):
    """An exported network beside the checkpoint it was made from.

    Attributes:
        differing: test images whose predicted class differs.
        furthest: the largest difference between two logits.
        accuracy: of the exported network, on the test images.
    """

    differing: int
    furthest: float
    accuracy: float


def write(trained: Checkpoint, kind: str, path: Path, calibration: Tensor | None) -> None:
    """Write a network in one of the forms of `ENDINGS`.

    Args:
        trained: on the CPU.
        kind: `onnx` (opset as torch.onnx chooses it), `pt2` (torch.export) or `safetensors` (the
            weights alone, for `checkpoint.build` of the description that goes with them).
        path: of the file.
        calibration: training images, uint8 (N, C, H, W), where the network is to compute in 8-bit
            integers, which `onnx` alone does; else None.
    """
    note = json.dumps(trained.description)
    if kind == "safetensors":
        from safetensors.torch import save

        weights = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
        content = save(weights, {NOTE: note})
    elif kind == "pt2":
        buffer = io.BytesIO()
        torch.export.save(_exported(trained), buffer, extra_files={NOTE: note})
        content = buffer.getvalue()
    else:
        content = _onnx(trained, note, calibration)
    files.write(path, content)


def usage(trained: Checkpoint) -> str:
    """What a file takes and gives, in a sentence."""
    shape = ", ".join(map(str, trained.description["shape"]))
    peak = trained.description["normalization"]["peak"]
    return (
        f"It takes pixels, float32 (batch, {shape}) from 0 to {peak}, and gives logits, float32"
        f" (batch, {len(trained.classes)})."
    )


def complete(trained: Checkpoint, folder: Path, card: Path | None) -> None:
    """Put beside the weights what makes a folder a model repository of the Hugging Face Hub.

    Args:
        trained: the network.
        folder: receives `config.json`, and `README.md` where there is a card.
        card: the model card of this network, if there is one.
    """
    files.write(folder / "config.json", (json.dumps(trained.description, indent=2) + "\n").encode())
    if card is not None and card.exists():
        files.write(folder / "README.md", card.read_bytes())


def _exported(trained: Checkpoint) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *trained.description["shape"])  # of one, the batch would stay one
    free = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(Pixels(trained).eval(), (example,), dynamic_shapes=(free,))


def _onnx(trained: Checkpoint, note: str, calibration: Tensor | None) -> bytes:
    import onnx

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own use of torch
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _exported(trained), input_names=["pixels"], output_names=["logits"],
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None  # noqa: S101  for mypy: without a path the program is returned
    model = program.model_proto
    # The exporter calls the one free axis after its own symbol, such as s81.
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = "batch"
    if calibration is not None:
        model = _quantized(model, calibration)
    onnx.helper.set_model_props(model, {NOTE: note})
    content: bytes = model.SerializeToString()
    return content


def _quantized(model: Any, images: Tensor) -> Any:
    """An ONNX model whose convolutions and linear layer multiply 8-bit integers.

    Weights by channel, activations by tensor, with ranges as these images show them.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        """What the library takes images from."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.float().numpy()}

    with tempfile.TemporaryDirectory() as scratch:
        whole, ready, done = (Path(scratch, f"{name}.onnx") for name in ("whole", "ready", "done"))
        onnx.save(model, whole)
        logging.disable(logging.WARNING)  # it advises what was done in the line before
        try:
            quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
            # Weights in 7 bits: a processor without VNNI adds two products in 16 bits, which 8-bit
            # weights overflow.
            quantization.quantize_static(
                str(ready), str(done), Images(), per_channel=True, reduce_range=True
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(done)


def read(kind: str, path: Path, description: dict[str, Any]) -> Network:
    """Load what `write` wrote, by the means of whoever gets the file.

    Args:
        kind: a key of `ENDINGS`.
        path: of the file.
        description: of the checkpoint, for weights that come without their network.
    """
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Its threads would wait busily for more work, on cores that others are timed on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(pixels: np.ndarray) -> np.ndarray:
            logits: np.ndarray = session.run(None, {"pixels": pixels})[0]
            return logits

        return run
    if kind == "pt2":
        return eager(torch.export.load(path).module())
    from safetensors.torch import load_file

    network = checkpoint.build(description)
    network.load_state_dict(load_file(path))
    return eager(Pixels(checkpoint.of(network, description)).eval())


def eager(module: nn.Module) -> Network:
    """A network of PyTorch as it is."""

    @torch.no_grad()
    def run(pixels: np.ndarray) -> np.ndarray:
        logits: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return logits

    return run


def logits_of(network: Network, images: Tensor) -> Tensor:
    """Run a network over uint8 images (N, C, H, W); returns logits, (N, classes)."""
    return torch.cat(
        [torch.from_numpy(network(batch.float().numpy())) for batch in images.split(BATCH)]
    )


def check(reference: Tensor, found: Tensor, labels: Tensor) -> Check:
    """What an exported network does otherwise than its checkpoint.

    Args:
        reference: the checkpoint's logits, (N, classes).
        found: the exported network's.
        labels: (N,).
    """
    return Check(
        int((reference.argmax(1) != found.argmax(1)).sum()),
        float((reference - found).abs().max()),
        prediction.accuracy(found, labels),
    )


def milliseconds(networks: dict[str, Network], image: np.ndarray) -> dict[str, list[float]]:
    """How long each network takes for a batch of each of `TIMED_BATCHES`, in turn; medians.

    Args:
        networks: by name.
        image: float32 (C, H, W), of which the batches consist.
    """
    found: dict[str, list[float]] = {name: [] for name in networks}
    for size in TIMED_BATCHES:
        pixels = np.repeat(image[None], size, axis=0)
        taken: dict[str, list[float]] = {name: [] for name in networks}
        for network in networks.values():
            network(pixels)  # what is done once only is not counted
        end = time.perf_counter() + TIMED_SECONDS * len(networks)
        for number in range(MOST_ROUNDS):
            if number >= LEAST_ROUNDS and time.perf_counter() > end:
                break
            for name, network in networks.items():
                start = time.perf_counter()
                network(pixels)
                taken[name].append(1000 * (time.perf_counter() - start))
        for name, values in taken.items():
            found[name].append(statistics.median(values))
    return found
