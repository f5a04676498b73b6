"""fit(): a generator that trains a network and yields one dict of metrics an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from striate.devices import REFERENCE, pick_precision
from striate.errors import UserError
from striate.evaluation import accuracy, mean_loss, predict
from striate.images import Split, augment, draw_mirrored
from striate.optimizers import build_optimizers

if TYPE_CHECKING:
    from striate.params import Augment, Training

VALIDATION_BATCH = 1000
WARM_UP = 3  # steps before a CUDA graph is recorded


def fit(
    model: nn.Module,
    train: Split,
    val: Split | None,
    *,
    settings: Training,
    augmentation: Augment,
    normalize: Callable[[Tensor], Tensor],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, minimising cross-entropy.

    Args:
        model: on the device of `train`.
        train: the images to learn from.
        val: images that are scored after each epoch and never learnt from; None for no scores.
        settings: the section `training` of params.yaml.
        augmentation: the section `augment` of params.yaml.
        normalize: uint8 images → inputs of the network.
        seed: of the order of the batches and of the augmentation.

    Yields:
        After each epoch: `epoch` (from 1), `learning_rate` (of its last step), `train_loss` and
        `train_accuracy` (means over the images as they were seen during the epoch, in nats and
        from 0 to 1), `val_loss` and `val_accuracy` where there is `val`, and `step_losses`, pairs
        of a step (from 1, counted over all epochs) and the loss of its batch.

    Raises:
        UserError: the loss is no longer a number.
    """
    device = train.labels.device
    generator = torch.Generator(device).manual_seed(seed)
    precision = pick_precision(settings.precision, device)
    model.to(memory_format=precision.memory_format)
    images = train.images.contiguous(memory_format=precision.memory_format)
    count = len(train.labels)
    steps = math.ceil(count / settings.batch_size)
    total = steps * settings.epochs
    fast = precision != REFERENCE
    optimizers = build_optimizers(
        model, settings, fused=fast and device.type != "mps", dtype=precision.dtype
    )
    capture = settings.capture == "auto" and device.type == "cuda"
    peaks = [optimizer.lr for optimizer in optimizers]
    if capture:
        # A recorded step reads its rate from the device; a number would be recorded with it.
        for optimizer in optimizers:
            optimizer.lr = torch.tensor(optimizer.lr, device=device)
    mirrored = draw_mirrored(count, generator) if augmentation.flip else None
    shrunk_steps = round(augmentation.shrink_until * total) if augmentation.shrink else 0
    parameters = list(model.parameters())
    losses = torch.empty(steps, device=device)
    sizes = [settings.batch_size] * (steps - 1) + [count - settings.batch_size * (steps - 1)]
    last_loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)

    def step(chosen: Tensor, shrunk: bool) -> None:
        inputs = augment(
            images, chosen, mirrored, normalize, augmentation, generator, shrunk=shrunk
        )
        labels = train.labels[chosen]
        # Each weight is used once a step, so that a cache of converted weights gains nothing.
        with torch.autocast(
            device.type, torch.bfloat16, precision.dtype == torch.bfloat16, cache_enabled=False
        ):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        last_loss.copy_(loss.detach())
        correct.add_((logits.argmax(1) == labels).sum())

    # One recording for each size of image.
    take = {
        shrunk: captured(partial(step, shrunk=shrunk), settings.batch_size, generator)
        if capture
        else partial(step, shrunk=shrunk)
        for shrunk in (True, False)
    }

    for epoch in range(1, settings.epochs + 1):
        model.train()
        correct.zero_()
        first = (epoch - 1) * steps
        order = torch.randperm(count, generator=generator, device=device)
        if mirrored is not None and epoch > 1:
            mirrored.logical_not_()
        with tqdm(
            total=count,
            desc=f"epoch {epoch}/{settings.epochs}",
            unit=" images",
            disable=None,
            leave=False,
        ) as bar:
            for number, chosen in enumerate(order.split(settings.batch_size)):
                factor = rate_factor(first + number, total, settings)
                for optimizer, peak in zip(optimizers, peaks, strict=True):
                    if isinstance(optimizer.lr, Tensor):
                        optimizer.lr.fill_(peak * factor)
                    else:
                        optimizer.lr = peak * factor
                take[first + number < shrunk_steps](chosen)
                losses[number] = last_loss
                # Reading the loss makes the host wait for the device, so only a shown bar does.
                if not bar.disable:
                    bar.update(sizes[number])
                    if number % settings.log_every == 0:
                        bar.set_postfix(loss=f"{last_loss.item():.4f}")

        values = losses.tolist()
        last_rate = settings.learning_rate * factor
        for number, value in enumerate(values, start=first + 1):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss became {value} at step {number}, with learning rate"
                    f" {last_rate:g}; a smaller training.learning_rate may help"
                )
        row: dict[str, Any] = {
            "epoch": epoch,
            "learning_rate": last_rate,
            "train_loss": math.fsum(v * size for v, size in zip(values, sizes, strict=True))
            / count,
            "train_accuracy": int(correct) / count,
        }
        if val is not None:
            logits = predict(model, val.images, normalize, batch_size=VALIDATION_BATCH)
            labels = val.labels.cpu()
            row["val_loss"] = mean_loss(logits, labels)
            row["val_accuracy"] = accuracy(logits, labels)
        row["step_losses"] = [
            (number, value)
            for number, value in enumerate(values, start=first + 1)
            if number % settings.log_every == 0
        ]
        yield row


def captured(
    step: Callable[[Tensor], None], size: int, generator: torch.Generator
) -> Callable[[Tensor], None]:
    """A step that is recorded once as a CUDA graph, and from then on replayed as a whole.

    A small batch is otherwise bound by the time that it takes to launch a hundred kernels. The
    first calls are steps like any other, in which libraries choose their algorithms and optimisers
    make their state; a batch of another size is not recorded.

    Args:
        step: takes the places of its images; touches no other input that is made anew.
        size: of the batches that are replayed.
        generator: of the random numbers that the step draws.
    """
    device = generator.device
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    place = torch.empty(size, dtype=torch.int64, device=device)
    calls = 0

    def run(chosen: Tensor) -> None:
        nonlocal calls
        if len(chosen) != size:
            step(chosen)
            return
        calls += 1
        if calls <= WARM_UP:
            # Capturing needs the state that was made on a stream of its own.
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                step(chosen)
            torch.cuda.current_stream(device).wait_stream(side)
            return
        place.copy_(chosen)
        if calls == WARM_UP + 1:
            with torch.cuda.graph(graph):
                step(place)
        graph.replay()

    return run


def summary_line(row: dict[str, Any], epochs: int) -> str:
    """One line for a person, of what `fit` yields after an epoch."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    for name, label in (("train", "training"), ("val", "validation")):
        if f"{name}_loss" in row:
            loss, share = row[f"{name}_loss"], row[f"{name}_accuracy"]
            parts.append(f"{label} loss {loss:.4f}, accuracy {share:.2%}")
    return " | ".join(parts)


def rate_factor(step: int, steps: int, settings: Training) -> float:
    """What the learning rate is multiplied by at a step (from 0) of `steps`.

    It rises linearly over the warm-up, then stays or falls so as to reach 0 after the last step.
    """
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / (steps - warmup), 1.0)
    return {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[settings.schedule]
