"""One training, by one of several programs, in a process of its own; prints one line of JSON.

    python benchmarks/side.py notebook|striate|lightning --data mnist --epochs 2

Used by the other benchmarks here. All train the same two-layer network with Adam at 0.001 on
batches of 100: `notebook` as the notebook does it, with a torchvision data set, ToTensor and a
DataLoader; `lightning` with that data set and loader in PyTorch Lightning's trainer; `striate`
with its own fit().
"""

import argparse
import copy
import json
import logging
import os
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn


class TwoLayers(nn.Module):
    """Twice convolution, batch norm, ReLU and pooling; then a linear layer."""

    def __init__(self, channels, side):
        super().__init__()
        self.layer1 = self.layer(channels, 16)
        self.layer2 = self.layer(16, 32)
        self.fc = nn.Linear(32 * (side // 4) ** 2, 10)

    @staticmethod
    def layer(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=5, padding=2),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(images)).flatten(1))


def published(name):
    """The training and the test images as torchvision reads them, and the network for them."""
    from torchvision.datasets import CIFAR10, MNIST
    from torchvision.transforms import ToTensor

    mirror = os.environ.get("STRIATE_MIRROR")
    root = Path(tempfile.gettempdir()) / "striate-benchmarks" / "published"
    if name == "cifar10":
        at_hand = mirror and (Path(mirror) / "cifar-10-batches-py").is_dir()
        parts = [
            CIFAR10(mirror if at_hand else root, train, ToTensor(), download=not at_hand)
            for train in (True, False)
        ]
        return parts, TwoLayers(3, 32)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for archive in (Path(mirror) / "MNIST/raw").glob("*.gz") if mirror else ():
        if not (raw / archive.name).exists():
            (raw / archive.name).symlink_to(archive.resolve())
    parts = [MNIST(root, train, ToTensor(), download=True) for train in (True, False)]
    return parts, TwoLayers(1, 28)


def warm_up(model, images, device):
    """One step of a copy on empty images, in which a GPU's libraries load; returns the seconds."""
    if device.type != "cuda":
        return 0.0
    begin = time.perf_counter()
    logits = copy.deepcopy(model)(torch.zeros(100, *images.shape, device=device))
    labels = torch.zeros(100, dtype=torch.int64, device=device)
    nn.CrossEntropyLoss()(logits, labels).backward()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def notebook(name, epochs, seed):
    from common import device_memory, memory, wait

    torch.manual_seed(seed)
    (train, test), model = published(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    loader = torch.utils.data.DataLoader(train, batch_size=100, shuffle=True)
    loss_function, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.001)
    before = warm_up(model, train[0][0], device)
    marks = [time.perf_counter()]
    for _ in range(epochs):
        for number, (images, labels) in enumerate(loader, start=1):
            images, labels = images.to(device), labels.to(device)
            loss = loss_function(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if number % 100 == 0:
                loss.item()  # which the notebook prints
        wait(device)
        marks.append(time.perf_counter())
    peak = memory()
    return model.eval(), test, {
        "seconds": marks[-1] - marks[0],
        "epochs": [after - before for before, after in pairwise(marks)],
        "images": len(train),
        "memory": peak,
        "device_memory": device_memory(device),
        "warm_up": before,
        "accuracy": share_right(model, test, device),
    }  # fmt: skip


@torch.no_grad()
def share_right(model, test, device):
    right = 0
    for images, labels in torch.utils.data.DataLoader(test, batch_size=100):
        right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(test)


def lightning(name, epochs, seed):
    import lightning as pl
    from common import device_memory, memory, wait

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pl.seed_everything(seed, verbose=False)
    (train, test), model = published(name)
    marks = []

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.001)

        def on_train_epoch_start(self):
            wait(self.device)
            marks.append(time.perf_counter())

        def on_train_epoch_end(self):
            wait(self.device)
            marks.append(time.perf_counter())

    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(train, batch_size=100, shuffle=True))
    peak = memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = list(zip(marks[::2], marks[1::2], strict=True))
    return {
        "seconds": marks[-1] - marks[0],
        "epochs": [after - before for before, after in pairs],
        "images": len(train),
        "memory": peak,
        "device_memory": device_memory(device),
        "accuracy": share_right(model.eval().to(device), test, device),
    }


def striate(name, epochs, seed, precision, deterministic):
    from common import params, train

    return train(
        params(
            data__name=name, training__epochs=epochs, training__precision=precision,
            training__deterministic=deterministic, seed=seed,
        )
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=["notebook", "striate", "lightning"])
    parser.add_argument("--data", choices=["mnist", "cifar10"], default="mnist")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--deterministic", choices=["true", "false"], default="true")
    arguments = parser.parse_args()
    run = (arguments.data, arguments.epochs, arguments.seed)
    if arguments.program == "striate":
        found = striate(*run, arguments.precision, arguments.deterministic == "true")
    elif arguments.program == "lightning":
        found = lightning(*run)
    else:
        _, _, found = notebook(*run)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
