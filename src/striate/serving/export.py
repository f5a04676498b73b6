"""Export a trained network to one file, and check that the file computes the same.

The input is pixels as published, float32 (N, C, H, W) with any N; the output is logits, float32
(N, classes). Each file contains the checkpoint's description, with the classes and pixel range.
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
METADATA_KEY = "striate"  # of the description in a file
CALIBRATION_IMAGES = 1000  # training images that set the ranges of int8 activations
BATCH = 256
TIMED_BATCHES = (1, 256)
TIMED_SECONDS = 1.0  # per network and batch size
MIN_ROUNDS, MAX_ROUNDS = 5, 200

Network = Callable[[np.ndarray], np.ndarray]  # pixels → logits


class Check(NamedTuple):
    """An exported network compared with its checkpoint.

    Attributes:
        differing: number of test images whose predicted class differs.
        furthest: the largest absolute difference of a logit.
        accuracy: of the exported network on the test set.
    """

    differing: int
    furthest: float
    accuracy: float


def write(trained: Checkpoint, kind: str, path: Path, calibration: Tensor | None) -> None:
    """Write a network in one of the formats of `ENDINGS`.

    Args:
        trained: on the CPU.
        kind: `onnx` (with torch.onnx's default opset), `pt2` (torch.export) or `safetensors` (only
            the weights, for `checkpoint.build`).
        path: of the file.
        calibration: training images, uint8 (N, C, H, W), to quantize the network to int8 (`onnx`
            only); None does not quantize.
    """
    metadata = json.dumps(trained.description)
    if kind == "safetensors":
        from safetensors.torch import save

        weights = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
        content = save(weights, {METADATA_KEY: metadata})
    elif kind == "pt2":
        buffer = io.BytesIO()
        torch.export.save(_exported(trained), buffer, extra_files={METADATA_KEY: metadata})
        content = buffer.getvalue()
    else:
        content = _onnx(trained, metadata, calibration)
    files.write(path, content)


def usage(trained: Checkpoint) -> str:
    """Describe the input and the output of an exported file in a sentence."""
    shape = ", ".join(map(str, trained.description["shape"]))
    peak = trained.description["normalization"]["peak"]
    return (
        f"Input: pixels, float32 (batch, {shape}) from 0 to {peak}; output: logits, float32"
        f" (batch, {len(trained.classes)})."
    )


def complete(trained: Checkpoint, folder: Path, card: Path | None) -> None:
    """Complete a folder of weights to a model repository for the Hugging Face Hub.

    Args:
        trained: the network.
        folder: receives `config.json`, and the card as `README.md`.
        card: the network's model card, if there is one.
    """
    files.write(folder / "config.json", (json.dumps(trained.description, indent=2) + "\n").encode())
    if card is not None and card.exists():
        files.write(folder / "README.md", card.read_bytes())


def _exported(trained: Checkpoint) -> torch.export.ExportedProgram:
    example = torch.zeros(
        2, *trained.description["shape"]
    )  # a batch of one would become a constant
    dynamic = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        return torch.export.export(Pixels(trained).eval(), (example,), dynamic_shapes=(dynamic,))


def _onnx(trained: Checkpoint, metadata: str, calibration: Tensor | None) -> bytes:
    import onnx

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own use of torch
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _exported(trained), input_names=["pixels"], output_names=["logits"],
            dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None  # noqa: S101  for mypy: None is returned only with a path
    model = program.model_proto
    # The exporter names the dynamic axis after an internal symbol, such as s81.
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = "batch"
    if calibration is not None:
        model = _quantized(model, calibration)
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    content: bytes = model.SerializeToString()
    return content


def _quantized(model: Any, images: Tensor) -> Any:
    """Quantize an ONNX model's convolutions and linear layer to int8 with these images.

    Weights are quantized per channel, activations per tensor.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        """The calibration images, in batches."""

        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.float().numpy()}

    with tempfile.TemporaryDirectory() as scratch:
        source, prepared, quantized = (
            Path(scratch, f"{name}.onnx") for name in ("source", "prepared", "quantized")
        )
        onnx.save(model, source)
        logging.disable(logging.WARNING)  # it advises to run `quant_pre_process`, which was run
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            # 7-bit weights: processors without VNNI add two products in 16 bits, which 8-bit
            # weights overflow.
            quantization.quantize_static(
                str(prepared), str(quantized), Images(), per_channel=True, reduce_range=True
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(quantized)


def read(kind: str, path: Path, description: dict[str, Any], device: torch.device) -> Network:
    """Load a file that `write` wrote with the library that its users would use.

    Args:
        kind: a key of `ENDINGS`.
        path: of the file.
        description: of the checkpoint, to build the network for `safetensors`.
        device: that computes; `onnx` computes on the CPU.
    """
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Spinning threads would slow down the other networks that are timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(pixels: np.ndarray) -> np.ndarray:
            logits: np.ndarray = session.run(None, {"pixels": pixels})[0]
            return logits

        return run
    if kind == "pt2":
        return eager(move(torch.export.load(path), device).module(), device)
    from safetensors.torch import load_file

    network = checkpoint.build(description)
    network.load_state_dict(load_file(path))
    return eager(Pixels(checkpoint.of(network, description)).eval(), device)


def move(program: torch.export.ExportedProgram, device: torch.device) -> Any:
    """Move an exported network, which holds the device that it was exported on."""
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def eager(module: nn.Module, device: torch.device) -> Network:
    """Wrap a PyTorch module, which is moved to the device."""
    module.to(device)

    @torch.no_grad()
    def run(pixels: np.ndarray) -> np.ndarray:
        logits: np.ndarray = module(torch.from_numpy(pixels).to(device)).cpu().numpy()
        return logits

    return run


def logits_of(network: Network, images: Tensor) -> Tensor:
    """Run a network on uint8 images (N, C, H, W); returns logits, (N, classes)."""
    return torch.cat(
        [torch.from_numpy(network(batch.float().numpy())) for batch in images.split(BATCH)]
    )


def check(reference: Tensor, found: Tensor, labels: Tensor) -> Check:
    """Compare the logits of an exported network with those of its checkpoint.

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
    """Median milliseconds of each network for a batch of each size in `TIMED_BATCHES`.

    The networks take turns, so that a busy machine slows all of them alike.

    Args:
        networks: by name.
        image: float32 (C, H, W), repeated to make a batch.
    """
    found: dict[str, list[float]] = {name: [] for name in networks}
    for size in TIMED_BATCHES:
        pixels = np.repeat(image[None], size, axis=0)
        times: dict[str, list[float]] = {name: [] for name in networks}
        for network in networks.values():
            network(pixels)  # warm up
        end = time.perf_counter() + TIMED_SECONDS * len(networks)
        for number in range(MAX_ROUNDS):
            if number >= MIN_ROUNDS and time.perf_counter() > end:
                break
            for name, network in networks.items():
                start = time.perf_counter()
                network(pixels)
                times[name].append(1000 * (time.perf_counter() - start))
        for name, values in times.items():
            found[name].append(statistics.median(values))
    return found
