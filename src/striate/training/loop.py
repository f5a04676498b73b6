"""fit(): a generator that trains a network and yields one dict of metrics an epoch."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from striate.data.splits import check_selection
from striate.data.tensors import Split
from striate.errors import UserError
from striate.models.prediction import accuracy, mean_loss, predict
from striate.models.registry import Network
from striate.training.distributed import SINGLE_PROCESS, Group, broadcast_weights
from striate.training.history import is_complete
from striate.training.lazy_images import Stored
from striate.training.mixing import rows_of
from striate.training.norms import train_
from striate.training.schedule import Schedule
from striate.training.state import State
from striate.training.step import TakesStep, build_step
from striate.training.task import Task

if TYPE_CHECKING:
    from striate.training.resume import Checkpointer

VALIDATION_BATCH = 1000
CHECK_INTERVAL = 100  # steps between two checks of the loss, on a device that computes by itself


def fit(
    model: Network,
    task: Task,
    *,
    checkpointer: Checkpointer | None = None,
    group: Group = SINGLE_PROCESS,
) -> Iterator[dict[str, Any]]:
    """Train `model` in place, minimising cross-entropy.

    Args:
        model: on the device of the images.
        task: images, params and normalization.
        checkpointer: saves the state after each epoch and whenever it is due. If it holds a state,
            the training resumes from there to the same end, and yields earlier epochs again.
        group: the processes that divide each batch. All call this with equal arguments, yield
            equal rows and end with equal weights. Norms see the whole batch only after
            `norms.synchronize_`.

    Yields:
        After each epoch: `epoch` (from 1), `learning_rate` (of its last step), `train_loss` and
        `train_accuracy` (means over the images as they were seen during the epoch, in nats and
        from 0 to 1; of mixed images, what they mostly show counts), `val_loss` and `val_accuracy`
        if there is a validation set, and `step_losses`, pairs of a step (from 1, counted over all
        epochs) and the loss of its batch.

    Raises:
        UserError: the loss is no longer a number, or the best epoch is to be kept without a
            validation set.
        PeerLostError: another process of the group is gone.
    """
    settings = task.params.training
    check_selection(settings, 0 if task.val_set is None else len(task.val_set.labels))
    broadcast_weights(model, group)
    if group.rank:
        torch.manual_seed(task.params.seed + group.rank)  # each process drops other features
    schedule = Schedule(task.params, len(task.train_set.labels))
    state = State(model, task, schedule.steps_per_epoch)
    step = build_step(task, state, group, checkpointer)
    snapshot = group.broadcast(None if checkpointer is None else checkpointer.snapshot)
    if snapshot is not None:
        state.restore(snapshot, group.rank, group.size)
        yield from state.rows

    while not is_complete(state.rows, settings):
        state.begin_epoch()
        # Models of GPUs draw other numbers from one seed where there are many.
        group.broadcast_(state.drawn())
        train_epoch(step, task, state, schedule, group, checkpointer)
        row = epoch_row(task, state, schedule, group)
        state.end_epoch(row, settings.keep)
        save(checkpointer, state, group, f"epoch {row['epoch']} of {settings.epochs}")
        yield row
    model.load_state_dict(state.best)


def train_epoch(
    step: TakesStep,
    task: Task,
    state: State,
    schedule: Schedule,
    group: Group,
    checkpointer: Checkpointer | None,
) -> None:
    """Take the steps of an epoch that are left, with a progress bar."""
    epoch, steps = len(state.rows) + 1, schedule.steps_per_epoch
    first = (epoch - 1) * steps
    train_(state.model)
    with (
        closing(batches(task, state, group)) as coming,
        progress_bar(schedule, epoch, state.steps_done, group) as bar,
    ):
        for number, (indices, pixels) in enumerate(coming, start=state.steps_done):
            factor = schedule.rate_factor(first + number)
            for optimizer in state.optimizers:
                optimizer.scale_rate(factor)
            state.begin_step()
            step(indices, pixels, shrunk=schedule.is_shrunk(first + number))
            state.losses[number] = state.last_loss
            state.steps_done = number + 1
            # Reading a number makes the host wait for a device that computes by itself.
            read = task.device.type == "cpu" or number % CHECK_INTERVAL == 0 or number == steps - 1
            if read:
                check_finite(state.losses[: number + 1], first, schedule)
            if not bar.disable:
                bar.update(len(indices))
                if number % schedule.settings.log_every == 0:
                    bar.set_postfix(loss=f"{state.last_loss.item():.4f}")
            if group.size > 1:
                due = read and state.save_requested.item() > 0
            else:
                due = checkpointer is not None and checkpointer.is_due()
            if due:
                label = f"step {number + 1} of {steps} of epoch {epoch}"
                save(checkpointer, state, group, label)


def batches(task: Task, state: State, group: Group) -> Generator[tuple[Tensor, Tensor | None]]:
    """The batches of an epoch that are left.

    Yields:
        The indices of the images of a batch, int64 (B,), and the images of this rank's slice of
        it, which are read ahead, behind the image before it where images are mixed; None if all
        images are on the device.
    """
    images, size = task.train_set.images, task.params.training.batch_size
    coming = state.order.split(size)[state.steps_done :]
    if isinstance(images, Tensor):
        for indices in coming:
            yield indices, None
        return
    on_host = state.order.cpu().split(size)[state.steps_done :]
    own = (indices[rows_of(group, indices, state.mixing)] for indices in on_host)
    with closing(images.batches(own)) as pixels:
        yield from zip(coming, pixels, strict=True)


def progress_bar(schedule: Schedule, epoch: int, steps_done: int, group: Group) -> tqdm[Any]:
    """A bar that counts the images of an epoch, in the main process and on a terminal."""
    return tqdm(
        total=sum(schedule.batch_sizes),
        initial=sum(schedule.batch_sizes[:steps_done]),
        desc=f"epoch {epoch}/{schedule.settings.epochs}",
        unit=" images",
        disable=True if group.rank else None,
        leave=False,
    )


def check_finite(losses: Tensor, first: int, schedule: Schedule) -> None:
    """Stop a training that has diverged.

    Args:
        losses: of the steps of an epoch so far; those before the last were finite, or not read.
        first: how many steps came before this epoch.
        schedule: of the learning rate.

    Raises:
        UserError: a loss is not a number; names the step.
    """
    if math.isfinite(float(losses[-1])) and (
        losses.device.type == "cpu" or losses.isfinite().all()
    ):
        return
    number = int((~losses.isfinite()).nonzero()[0])
    raise UserError(
        f"the loss became {float(losses[number])} at step {first + number + 1}, with learning rate"
        f" {schedule.learning_rate(first + number):g}; a smaller training.learning_rate, or more"
        " training.warmup, may help"
    )


def save(checkpointer: Checkpointer | None, state: State, group: Group, label: str) -> None:
    """Save the state in all processes at once; where one is asked to stop, all stop.

    Args:
        checkpointer: of this process; None saves nothing.
        state: after a step.
        group: the processes that train together.
        label: what the state is of.

    Raises:
        KeyboardInterrupt: the training was asked to stop; the state is saved.
    """
    if checkpointer is None:
        return
    found = group.all_gather((state.random_states(), checkpointer.stop_requested))
    checkpointer.stop_requested = any(requested for _, requested in found)
    checkpointer.save(state.snapshot([states for states, _ in found]), label)


def epoch_row(task: Task, state: State, schedule: Schedule, group: Group) -> dict[str, Any]:
    """The metrics of an epoch whose steps are taken; see `fit`."""
    done, sizes = len(state.rows), schedule.batch_sizes
    first, count = done * schedule.steps_per_epoch, sum(sizes)
    losses = state.losses.tolist()
    row: dict[str, Any] = {
        "epoch": done + 1,
        "learning_rate": schedule.learning_rate(first + schedule.steps_per_epoch - 1),
        "train_loss": math.fsum(v * n for v, n in zip(losses, sizes, strict=True)) / count,
        "train_accuracy": int(state.correct) / count,
    }
    if task.val_set is not None:
        logits = predict_in_parts(task, task.val_set, state.scored_model, group)
        labels = task.val_set.labels.cpu()
        row["val_loss"] = mean_loss(logits, labels)
        row["val_accuracy"] = accuracy(logits, labels)
    row["step_losses"] = [
        (number, value)
        for number, value in enumerate(losses, start=first + 1)
        if number % schedule.settings.log_every == 0
    ]
    return row


def predict_in_parts(
    task: Task, split: Split[Tensor] | Split[Stored], model: Network, group: Group
) -> Tensor:
    """`predict`, where each process takes its slice of the images; logits (N, classes)."""
    part = group.rank_slice(len(split.labels))
    own = predict(model, split.images[part], task.normalize, batch_size=VALIDATION_BATCH)
    if group.size == 1:
        return own
    logits = torch.zeros(len(split.labels), own.shape[1], device=split.labels.device)
    logits[part] = own.to(logits.device)
    group.all_reduce([logits])
    return logits.cpu()
