"""fit(): what it yields, what it learns, and that it repeats itself."""

import csv
import math

import pytest
import torch
from tiny import NETWORKS, SPEEDRUN, bars, network, settings, task
from torch import nn

from striate.data import json_csv
from striate.data.tensors import Split
from striate.errors import UserError
from striate.models import checkpoint, configs
from striate.training import history, loop, schedule
from striate.training import step as steps
from striate.training.capture import CapturedStep

EVERYTHING = {"translate": 1, "flip": True, "rotate": 5, "zoom": 0.1, "cutout": 1, "shrink": 4,
              "shrink_until": 0.5}  # fmt: skip


def run(train=None, val=None, model=None, seed=0, **options):
    """Train; returns the network and the rows. Options are those of `tiny.settings`."""
    model = model or network(seed=seed)
    return model, list(loop.fit(model, task(train, val, seed=seed, **options)))


@pytest.mark.parametrize("precision", ["float32", "auto", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_it_learns_what_can_be_learnt(optimizer, precision):
    _, rows = run(
        val=bars(30, seed=1), epochs=8, optimizer=optimizer, learning_rate=0.02,
        precision=precision,
    )  # fmt: skip
    assert rows[-1]["val_accuracy"] == 1.0
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2


# Each optimizer in one precision: processors without bfloat16 compute in it many times slower.
WAYS = [("adam", "float32", 0.01), ("adamw", "bfloat16", 0.01), ("sgd", "float32", 0.05),
        ("muon", "bfloat16", 0.05)]  # fmt: skip


@pytest.mark.parametrize(("optimizer", "precision", "rate"), WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_what_can_be_learnt(name, optimizer, precision, rate):
    _, rows = run(
        bars(150), bars(30, seed=1), network(NETWORKS[name] | {"dropout": 0.0}),
        epochs=20 if name in ("speedrun", "lenet5", "vit") else 12,
        optimizer=optimizer, learning_rate=rate, precision=precision,
        schedule="cosine",
    )  # fmt: skip
    assert rows[-1]["val_accuracy"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2


@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
def test_every_network_is_the_same_to_the_last_byte_for_the_same_seed(architecture, tmp_path):
    augment = EVERYTHING
    if not configs.find(architecture["arch"]).takes_any_size:
        augment = EVERYTHING | {"shrink": 0}
    contents = []
    for attempt in ("first", "second"):
        model, _ = run(model=network(architecture), augment=augment, precision="auto")
        checkpoint.save(model, {}, tmp_path / attempt)
        contents.append((tmp_path / attempt / "cnn_trained.ckpt").read_bytes())
    assert contents[0] == contents[1]


def test_one_dict_an_epoch():
    _, rows = run(val=bars(30, seed=1))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(
        list(row) == ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss",
                      "val_accuracy", "step_losses"]
        for row in rows
    )  # fmt: skip
    # 50 images in batches of 16 are 4 steps an epoch; every second is recorded.
    assert [step for row in rows for step, _ in row["step_losses"]] == [2, 4, 6, 8, 10, 12]


def test_without_validation_there_are_no_validation_columns():
    _, rows = run()
    assert not any(key.startswith("val_") for row in rows for key in row)


class Linear(nn.Sequential):
    def parameter_roles(self):
        return {"filters": [], "head": [self[1].weight], "biases": [self[1].bias]}


def test_the_loss_is_the_mean_over_images_and_not_over_batches():
    frozen = Linear(nn.Flatten(), nn.Linear(36, 3))
    train = bars(50)
    with torch.no_grad():
        logits = frozen(train.images.float() / 255)
    expected = float(nn.functional.cross_entropy(logits, train.labels))
    _, rows = run(train, model=frozen, batch_size=48, learning_rate=1e-12, epochs=1)
    assert rows[0]["train_loss"] == pytest.approx(expected, rel=1e-6)
    assert rows[0]["train_accuracy"] == int((logits.argmax(1) == train.labels).sum()) / 50


@pytest.mark.parametrize("precision", ["float32", "auto", "bfloat16"])
def test_the_same_seed_gives_the_same_history_and_the_same_bytes(precision, tmp_path):
    options = {"val": bars(30, seed=1), "augment": EVERYTHING, "precision": precision}
    contents = []
    for attempt in ("first", "second"):
        model, rows = run(model=network(SPEEDRUN), **options)
        checkpoint.save(model, {"attempt": 1}, tmp_path / attempt)
        history.write_training(rows, len(rows), 1, tmp_path / attempt)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / attempt).iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [
        "cnn_trained.ckpt", "history.csv", "model.json", "steps.csv", "train.json",
    ]  # fmt: skip
    _, other = run(model=network(SPEEDRUN, seed=1), seed=1, **options)
    assert other != rows


def test_training_follows_the_notebooks_loop_to_the_last_bit():
    """Adam 0.001 with default betas, cross-entropy, the same batches: the same weights."""
    ours, rows = run(epochs=2, learning_rate=0.001)
    theirs = network().train()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.001)
    generator = torch.Generator().manual_seed(0)
    train = bars(50)
    for _ in range(2):
        for chosen in torch.randperm(50, generator=generator).split(16):
            loss = nn.CrossEntropyLoss()(
                theirs(train.images[chosen].float() / 255), train.labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert rows[-1]["step_losses"][-1] == (8, loss.item())


def test_a_loss_that_is_no_number_stops_the_run_with_advice():
    with pytest.raises(UserError, match=r"loss became \S+ at step \d+, with learning rate 1e\+30"):
        run(learning_rate=1e30, optimizer="sgd", epochs=4)


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("linear", 0.5, [1 / 3, 2 / 3, 1, 0.5]),
        ("constant", 0.25, [0.5, 1, 1, 1]),
    ],
)
def test_schedules(name, warmup, expected):
    params = settings(schedule=name, warmup=warmup, epochs=2, batch_size=25)
    planned = schedule.Schedule(params, images=50)
    assert [planned.rate_factor(step) for step in range(4)] == pytest.approx(expected)
    assert [planned.learning_rate(step) for step in range(4)] == pytest.approx(
        [0.01 * factor for factor in expected]
    )


@pytest.mark.parametrize(("images", "sizes"), [(50, [16, 16, 16, 2]), (48, [16, 16, 16]), (3, [3])])
def test_an_epoch_takes_every_image_once(images, sizes):
    planned = schedule.Schedule(settings(), images)
    assert planned.batch_sizes == sizes
    assert planned.steps_per_epoch == schedule.steps_per_epoch(images, 16) == len(sizes)
    assert planned.total_steps == 3 * len(sizes)


def test_the_learning_rate_of_the_last_step_is_recorded():
    _, rows = run(schedule="linear", epochs=2, learning_rate=0.8)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.8 * 5 / 8, 0.8 * 1 / 8])


def test_label_smoothing_and_weight_decay_reach_the_optimisation():
    plain, _ = run(epochs=1)
    for key in ("label_smoothing", "weight_decay"):
        changed, _ = run(epochs=1, **{key: 0.2})
        assert not torch.equal(plain.fc.weight, changed.fc.weight), key


def test_summary_line_with_and_without_validation():
    row = {"epoch": 2, "train_loss": 0.5, "train_accuracy": 0.75}
    assert history.summary_line(row, 5) == "epoch 2/5 | training loss 0.5000, accuracy 75.00%"
    row |= {"val_loss": 0.25, "val_accuracy": 1.0}
    assert history.summary_line(row, 5).endswith("validation loss 0.2500, accuracy 100.00%")


def test_history_survives_the_files_to_the_last_digit(tmp_path):
    _, rows = run(val=bars(30, seed=1))
    history.write_training(rows, 3, 123, tmp_path)
    table = json_csv.read_table(tmp_path / "history.csv")
    for name, column in table.items():
        assert column == [row[name] for row in rows]
    steps = json_csv.read_table(tmp_path / "steps.csv")
    pairs = list(zip(steps["step"], steps["step_loss"], strict=True))
    assert pairs == [pair for row in rows for pair in row["step_losses"]]
    summary = json_csv.read_json(tmp_path / "train.json")
    assert summary == {
        key: rows[-1][key]
        for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    } | {"epochs": 3, "kept_epoch": 3, "parameters": 123}  # fmt: skip
    with (tmp_path / "history.csv").open() as stream:
        assert next(csv.reader(stream))[0] == "epoch"


ACCURACIES = (0.5, 0.7, 0.7, 0.6, 0.6, 0.9)


@pytest.fixture
def scripted(monkeypatch):
    """Validation accuracies as in ACCURACIES, whatever is learnt."""
    told = iter(ACCURACIES)
    monkeypatch.setattr(loop, "accuracy", lambda logits, labels: next(told))


def test_the_last_epoch_is_kept_unless_the_best_is_asked_for(scripted):
    states = []
    model = network()
    rows = []
    for row in loop.fit(model, task(val=bars(30, seed=1), keep="best", epochs=5)):
        rows.append(row)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    assert history.kept_epoch(rows, "best") == 2  # the first of two equal ones
    assert history.kept_epoch(rows, "last") == 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[1][name])
    assert not torch.equal(states[1]["fc.weight"], states[4]["fc.weight"])


def test_scores_on_file_are_those_of_the_kept_epoch(scripted, tmp_path):
    _, rows = run(val=bars(30, seed=1), epochs=4, keep="best")
    history.write_training(rows, history.kept_epoch(rows, "best"), 9, tmp_path)
    summary = json_csv.read_json(tmp_path / "train.json")
    assert (summary["kept_epoch"], summary["epochs"]) == (2, 4)
    assert summary["val_accuracy"] == 0.7
    assert summary["train_loss"] == rows[1]["train_loss"]


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 4), (3, 5), (4, 6)])
def test_training_stops_after_so_many_epochs_without_a_better_one(scripted, patience, epochs):
    _, rows = run(val=bars(30, seed=1), epochs=6, patience=patience)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))


@pytest.mark.parametrize("changes", [{"keep": "best"}, {"patience": 1}])
def test_the_best_epoch_needs_validation_images(changes):
    with pytest.raises(UserError, match="which needs a validation set"):
        run(**changes)


def test_a_training_that_diverges_stops_at_that_step(monkeypatch):
    taken = []
    real = steps.augment

    def poisoned(*arguments, **options):
        taken.append(1)
        inputs = real(*arguments, **options)
        return inputs * math.nan if len(taken) == 6 else inputs

    monkeypatch.setattr(steps, "augment", poisoned)
    with pytest.raises(UserError, match=r"became nan at step 6, with learning rate 0\.01;"):
        run()  # four steps an epoch
    assert len(taken) == 6


def test_a_rate_of_its_own_reaches_the_optimisation():
    plain, _ = run(epochs=1)
    for key in ("bias_rate", "head_rate"):
        frozen, _ = run(epochs=1, **{key: 0.0})
        before = network()
        kept = frozen.fc.bias if key == "bias_rate" else frozen.fc.weight
        first = before.fc.bias if key == "bias_rate" else before.fc.weight
        assert torch.equal(kept, first)
        assert not torch.equal(frozen.layer1[0].weight, plain.layer1[0].weight)


def test_images_are_flipped_in_every_second_epoch(monkeypatch):
    seen = []

    def keep(images, indices, flipped, *rest, **options):
        seen.append(torch.empty_like(flipped).scatter_(0, indices, flipped))  # by image
        return images[indices].float()

    monkeypatch.setattr(steps, "augment", keep)
    run(augment={"flip": True}, batch_size=50, epochs=4)
    assert torch.equal(seen[0], ~seen[1])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_images_are_shrunk_until_the_step_that_is_named(monkeypatch):
    sides = []
    augment = steps.augment

    def keep(*arguments, **options):
        inputs = augment(*arguments, **options)
        sides.append(inputs.shape[-1])
        return inputs

    monkeypatch.setattr(steps, "augment", keep)
    shrinking = {"shrink": 4, "shrink_until": 0.4}
    run(augment=shrinking, batch_size=16, epochs=5, model=network(SPEEDRUN))
    assert sides == [4] * 8 + [6] * 12


@pytest.mark.parametrize("sent", [False, True], ids=["on the device", "sent"])
def test_a_step_is_captured_after_the_warm_up_and_replayed(sent, monkeypatch):
    """The order of calls, with a stand-in for CUDA; the test below needs the real one."""
    events = []

    class Graph:
        def register_generator_state(self, generator):
            events.append("generator")

        def replay(self):
            events.append("replay")

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Recording(Stream):
        def __init__(self, graph, *, pool, stream, capture_error_mode):
            pools.add(pool)
            assert capture_error_mode == "thread_local"  # for the threads that read ahead

        def __enter__(self):
            events.append("record")

    pools = set()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    taken = []

    def step(indices, pixels=None, *, shrunk):
        events.append((len(indices), shrunk))
        taken.append((indices, pixels))

    captured = CapturedStep(step, 2, torch.Generator())
    batches = [(torch.tensor([n, n]), torch.full((2, 1), n) if sent else None) for n in range(6)]
    rest = (torch.tensor([9]), torch.full((1, 1), 9) if sent else None)
    for indices, pixels in [*batches[:4], rest, *batches[4:]]:
        captured(indices, pixels, shrunk=True)
    own, other = (2, True), (1, True)
    assert events == [
        "generator", "generator", own, own, own, "record", own, "replay", other, "replay", "replay",
    ]  # fmt: skip
    # What is replayed reads the same tensors, into which each batch is copied.
    assert torch.equal(taken[3][0], batches[5][0])
    assert torch.equal(taken[3][1], batches[5][1]) if sent else taken[3][1] is None
    events.clear()
    for indices, pixels in batches[:4]:  # has a graph of its own, and its own warm-up
        captured(indices, pixels, shrunk=False)
    assert events == [(2, False)] * 3 + ["record", (2, False), "replay"]
    assert pools == {(0, 1)}


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_captured_steps_train_like_steps_that_are_not(optimizer, architecture):
    train = Split(*(part.cuda() for part in bars(50)))
    results = []
    for capture in ("auto", "never"):
        model = network(architecture).cuda()
        _, rows = run(train, model=model, capture=capture, optimizer=optimizer, schedule="linear")
        results.append([row["train_loss"] for row in rows])
    assert results[0] == pytest.approx(results[1], rel=1e-3)
