"""fit(): a generator that trains a network and yields one dict of metrics an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from striate.errors import UserError
from striate.evaluation import accuracy, mean_loss, predict
from striate.images import Split, augment, shuffled_batches

if TYPE_CHECKING:
    from striate.params import Augment, Training

VALIDATION_BATCH = 1000


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
    count = len(train.labels)
    steps = math.ceil(count / settings.batch_size)
    optimizer = build_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, steps * settings.epochs, settings)
    )
    losses = torch.empty(steps, device=device)
    sizes = [settings.batch_size] * (steps - 1) + [count - settings.batch_size * (steps - 1)]

    for epoch in range(1, settings.epochs + 1):
        model.train()
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with tqdm(
            total=count,
            desc=f"epoch {epoch}/{settings.epochs}",
            unit=" images",
            disable=None,
            leave=False,
        ) as bar:
            for step, batch in enumerate(shuffled_batches(train, settings.batch_size, generator)):
                inputs = augment(normalize(batch.images), augmentation, generator)
                logits = model(inputs)
                loss = F.cross_entropy(
                    logits, batch.labels, label_smoothing=settings.label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                last_rate = schedule.get_last_lr()[0]
                schedule.step()
                losses[step] = loss.detach()
                correct += (logits.argmax(1) == batch.labels).sum()
                # Reading the loss makes the host wait for the device, so only a shown bar does.
                if not bar.disable:
                    bar.update(sizes[step])
                    if step % settings.log_every == 0:
                        bar.set_postfix(loss=f"{losses[step].item():.4f}")

        values = losses.tolist()
        first = (epoch - 1) * steps + 1
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                raise UserError(
                    f"the loss became {value} at step {step}, with learning rate"
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
            (step, value)
            for step, value in enumerate(values, start=first)
            if step % settings.log_every == 0
        ]
        yield row


def summary_line(row: dict[str, Any], epochs: int) -> str:
    """One line for a person, of what `fit` yields after an epoch."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    for name, label in (("train", "training"), ("val", "validation")):
        if f"{name}_loss" in row:
            loss, share = row[f"{name}_loss"], row[f"{name}_accuracy"]
            parts.append(f"{label} loss {loss:.4f}, accuracy {share:.2%}")
    return " | ".join(parts)


def build_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimiser that the section `training` names, over all parameters of `model`."""
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            **options,
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **options)
    return torch.optim.Adam(model.parameters(), **options)


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
