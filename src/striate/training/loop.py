"""fit(): a generator that trains a network and yields one dict of metrics an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from striate.data.splits import check_validation
from striate.data.tensors import Split
from striate.errors import UserError
from striate.models.devices import REFERENCE, pick_precision
from striate.models.networks import Network
from striate.models.prediction import accuracy, mean_loss, predict
from striate.training.augmentation import augment, draw_mirrored
from striate.training.distributed import ALONE, Group, gradients
from striate.training.lazy_images import Stored
from striate.training.norms import running_statistics, train_
from striate.training.optimizers import build_optimizers

if TYPE_CHECKING:
    from striate.config.params import Augment, Training
    from striate.training.resume import Keeper

VALIDATION_BATCH = 1000
CHECKED_EVERY = 100  # steps, on a device that the host would otherwise run ahead of
WARM_UP = 3  # steps before a CUDA graph is recorded


def fit(
    model: Network,
    train: Split[Tensor] | Split[Stored],
    val: Split[Tensor] | Split[Stored] | None,
    *,
    settings: Training,
    augmentation: Augment,
    normalize: Callable[[Tensor], Tensor],
    seed: int,
    keeper: Keeper | None = None,
    group: Group = ALONE,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, minimising cross-entropy.

    Args:
        model: on the device of `train`.
        train: the images to learn from. Where they lie changes nothing but the time.
        val: images that are scored after each epoch and never learnt from; None for no scores.
        settings: the section `training` of params.yaml.
        augmentation: the section `augment` of params.yaml.
        normalize: uint8 images → inputs of the network.
        seed: of the order of the batches and of the augmentation.
        keeper: saves the state after each epoch and whenever it wants to. A state that it holds
            is gone on from, to the same end; the epochs before it are yielded once more.
        group: the processes among which each batch is divided. All call this with equal arguments
            and are given equal rows; the network ends with equal weights in each of them. Norms
            see the whole batch only after `models.synchronize_`.

    Yields:
        After each epoch: `epoch` (from 1), `learning_rate` (of its last step), `train_loss` and
        `train_accuracy` (means over the images as they were seen during the epoch, in nats and
        from 0 to 1), `val_loss` and `val_accuracy` where there is `val`, and `step_losses`, pairs
        of a step (from 1, counted over all epochs) and the loss of its batch.

    Raises:
        UserError: the loss is no longer a number, or there are no images to choose the best epoch
            by.
        PeerLostError: another process of the group is gone.
    """
    check_validation(settings, 0 if val is None else len(val.labels))
    device = train.labels.device
    generator = torch.Generator(device).manual_seed(seed)
    precision = pick_precision(settings.precision, device)
    model.to(memory_format=precision.memory_format)
    stored = train.images if isinstance(train.images, Stored) else None
    if isinstance(train.images, Tensor):
        images = train.images.contiguous(memory_format=precision.memory_format)
    count, size = len(train.labels), settings.batch_size
    steps = steps_per_epoch(count, size)
    total = steps * settings.epochs
    fast = precision != REFERENCE
    optimizers = build_optimizers(
        model, settings, fused=fast and device.type != "mps", dtype=precision.dtype
    )
    alone = group.size == 1
    capture = settings.capture == "auto" and device.type == "cuda" and alone and stored is None
    peaks = [optimizer.lr for optimizer in optimizers]
    if capture:
        # A recorded step reads its rate from the device; a number would be recorded with it.
        for optimizer in optimizers:
            optimizer.lr = torch.tensor(optimizer.lr, device=device)
    mirrored = draw_mirrored(count, generator) if augmentation.flip else None
    shrunk_steps = round(augmentation.shrink_until * total) if augmentation.shrink else 0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    order = torch.empty(count, dtype=torch.int64, device=device)
    losses = torch.zeros(steps, device=device)
    sizes = [size] * (steps - 1) + [count - size * (steps - 1)]
    last_loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    wish = torch.zeros((), device=device)  # of any process, to save the state
    weights = model.state_dict()
    best = {name: value.clone() for name, value in weights.items()}
    rows: list[dict[str, Any]] = []
    if group.size > 1:
        # Two kinds of processors may have rounded the first weights differently.
        first_weights = group.told({name: value.cpu() for name, value in weights.items()})
        for name, value in weights.items():
            value.copy_(first_weights[name])
        if group.rank:
            torch.manual_seed(seed + group.rank)  # each process drops other features

    def step(chosen: Tensor, shrunk: bool, pixels: Tensor | None = None) -> None:
        """Learn from a batch, or this process's share of it, which `pixels` are if not None."""
        share = group.share(len(chosen))
        places = chosen[share.part]
        flipped = mirrored[places] if mirrored is not None else None
        if pixels is None:
            source, inside = images, places
        else:
            source = pixels.contiguous(memory_format=precision.memory_format)
            inside = torch.arange(len(places), device=device)
        inputs = augment(
            source, inside, flipped, normalize, augmentation, generator, share=share, shrunk=shrunk
        )
        labels = train.labels[places]
        # Each weight is used once a step, so that a cache of converted weights gains nothing.
        with torch.autocast(
            device.type, torch.bfloat16, precision.dtype == torch.bfloat16, cache_enabled=False
        ):
            logits = model(inputs)
        loss = F.cross_entropy(
            logits.float(), labels, label_smoothing=settings.label_smoothing,
            reduction="mean" if group.size == 1 else "sum",
        )  # fmt: skip
        if group.size > 1:
            loss = loss / len(chosen)
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        last_loss.copy_(loss.detach())
        right = (logits.argmax(1) == labels).sum()
        correct.add_(right if group.size == 1 else add_up(right))
        for optimizer in optimizers:
            optimizer.step()

    def add_up(right: Tensor) -> Tensor:
        """Sum up the parts of a step that the processes have, in one call.

        Gradients and loss are parts of the mean over the batch; of running statistics the mean
        is taken.
        """
        grads = gradients(parameters)
        statistics = running_statistics(model)
        for value in statistics:
            value.div_(group.size)
        hits = right.float()
        wish.fill_(keeper is not None and keeper.due())
        group.add_([*grads, *statistics, last_loss, hits, wish])
        return hits.long()

    # One recording for each size of image.
    take = {
        shrunk: captured(partial(step, shrunk=shrunk), size, generator)
        if capture
        else partial(step, shrunk=shrunk)
        for shrunk in (True, False)
    }

    # All that changes in place from step to step, by name.
    live = {f"model.{name}": value for name, value in weights.items()}
    live |= {f"best.{name}": value for name, value in best.items()}
    for index, optimizer in enumerate(optimizers):
        live |= {f"optimizer.{index}.{k}": value for k, value in enumerate(optimizer.state())}
    live |= {"order": order, "losses": losses, "correct": correct}
    if mirrored is not None:
        live["mirrored"] = mirrored

    def save(taken: int, saved: str) -> None:
        """Save the state after so many steps of the epoch that follows the last row."""
        if keeper is None:
            return
        tensors = {name: value.to("cpu", copy=True) for name, value in live.items()}
        found = group.gathered((random_states(device), keeper.stopping))
        random = [generator.get_state(), *(states for states, _ in found)]
        keeper.stopping = any(stopping for _, stopping in found)
        keeper.save({"tensors": tensors, "random": random, "taken": taken, "rows": rows}, saved)

    taken = 0
    state = group.told(keeper.state if keeper is not None else None)
    if state is not None:
        for name, value in live.items():
            value.copy_(state["tensors"][name])
        taken, rows = state["taken"], state["rows"]
        stream, *states = state["random"]
        generator.set_state(stream)
        if len(states) == group.size:  # else it was saved by another number of processes
            set_random_states(device, states[group.rank])
        yield from rows

    while not complete(rows, settings):
        epoch = len(rows) + 1
        train_(model)
        first = (epoch - 1) * steps
        if taken == 0:
            correct.zero_()
            torch.randperm(count, generator=generator, device=device, out=order)
            if mirrored is not None and epoch > 1:
                mirrored.logical_not_()
        with (
            closing(shares(stored, order, size, taken, group)) as pixels,
            tqdm(
                total=count,
                initial=sum(sizes[:taken]),
                desc=f"epoch {epoch}/{settings.epochs}",
                unit=" images",
                disable=True if group.rank else None,
                leave=False,
            ) as bar,
        ):
            for number in range(taken, steps):
                factor = rate_factor(first + number, total, settings)
                for optimizer, peak in zip(optimizers, peaks, strict=True):
                    if isinstance(optimizer.lr, Tensor):
                        optimizer.lr.fill_(peak * factor)
                    else:
                        optimizer.lr = peak * factor
                chosen = order[number * size : (number + 1) * size]
                shrunk = first + number < shrunk_steps
                if stored is None:
                    take[shrunk](chosen)
                else:
                    step(chosen, shrunk, next(pixels))
                losses[number] = last_loss
                # Reading a number makes the host wait for a device that computes by itself.
                read = device.type == "cpu" or number % CHECKED_EVERY == 0 or number == steps - 1
                if read:
                    check_finite(losses[: number + 1], first, total, settings)
                if not bar.disable:
                    bar.update(sizes[number])
                    if number % settings.log_every == 0:
                        bar.set_postfix(loss=f"{last_loss.item():.4f}")
                if group.size > 1:
                    due = read and wish.item() > 0
                else:
                    due = keeper is not None and keeper.due()
                if due:
                    save(number + 1, f"step {number + 1} of {steps} of epoch {epoch}")

        taken = 0
        values = losses.tolist()
        row: dict[str, Any] = {
            "epoch": epoch,
            "learning_rate": settings.learning_rate
            * rate_factor(first + steps - 1, total, settings),
            "train_loss": math.fsum(v * n for v, n in zip(values, sizes, strict=True)) / count,
            "train_accuracy": int(correct) / count,
        }
        if val is not None:
            logits = predict_together(model, val, normalize, group)
            labels = val.labels.cpu()
            row["val_loss"] = mean_loss(logits, labels)
            row["val_accuracy"] = accuracy(logits, labels)
        row["step_losses"] = [
            (number, value)
            for number, value in enumerate(values, start=first + 1)
            if number % settings.log_every == 0
        ]
        rows.append(row)
        if kept_epoch(rows, settings.keep) == epoch:
            for name, value in best.items():
                value.copy_(weights[name])
        save(0, f"epoch {epoch} of {settings.epochs}")
        yield row
    model.load_state_dict(best)


def kept_epoch(rows: list[dict[str, Any]], keep: str) -> int:
    """The epoch whose weights are kept, by what `fit` yielded.

    Args:
        rows: one dict an epoch, not empty.
        keep: `last`, or `best`: the first with the highest accuracy on the validation images.
    """
    if keep == "last":
        return len(rows)
    return max(rows, key=lambda row: row["val_accuracy"])["epoch"]  # type: ignore[no-any-return]


def complete(rows: list[dict[str, Any]], settings: Training) -> bool:
    """Whether all epochs were trained, or as many as are to be without a better one."""
    if not rows or not settings.patience:
        return len(rows) == settings.epochs
    waited = len(rows) - kept_epoch(rows, "best")
    return len(rows) == settings.epochs or waited >= settings.patience


def check_finite(losses: Tensor, first: int, total: int, settings: Training) -> None:
    """Stop a training that has diverged.

    Args:
        losses: of the steps of an epoch so far; those before the last were finite, or not read.
        first: how many steps came before this epoch.
        total: how many steps there are.
        settings: the section `training` of params.yaml.

    Raises:
        UserError: a loss is not a number; says at which step.
    """
    if math.isfinite(float(losses[-1])) and (
        losses.device.type == "cpu" or losses.isfinite().all()
    ):
        return
    number = int((~losses.isfinite()).nonzero()[0])
    rate = settings.learning_rate * rate_factor(first + number, total, settings)
    raise UserError(
        f"the loss became {float(losses[number])} at step {first + number + 1}, with learning rate"
        f" {rate:g}; a smaller training.learning_rate, or more training.warmup, may help"
    )


def shares(
    stored: Stored | None, order: Tensor, size: int, taken: int, group: Group
) -> Generator[Tensor]:
    """What one of several processes takes of each batch of an epoch, read ahead of its use.

    Args:
        stored: the images; None yields nothing.
        order: of the images in the epoch.
        size: of a batch.
        taken: how many batches are passed over.
        group: the processes among which each batch is divided.
    """
    if stored is not None:
        batches = order.cpu().split(size)[taken:]
        yield from stored.batches(batch[group.share(len(batch)).part] for batch in batches)


def predict_together(
    model: Network,
    val: Split[Tensor] | Split[Stored],
    normalize: Callable[[Tensor], Tensor],
    group: Group,
) -> Tensor:
    """`predict`, by several processes, each of which takes a part of the images."""
    part = group.share(len(val.labels)).part
    own = predict(model, val.images[part], normalize, batch_size=VALIDATION_BATCH)
    if group.size == 1:
        return own
    logits = torch.zeros(len(val.labels), own.shape[1], device=val.labels.device)
    logits[part] = own.to(logits.device)
    group.add_([logits])
    return logits.cpu()


def random_states(device: torch.device) -> list[Tensor]:
    """Where the random numbers stand that dropout draws."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Go on where `random_states` was called."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


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


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many batches `count` images make; the last one may be smaller."""
    return math.ceil(count / batch_size)


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
