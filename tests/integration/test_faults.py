"""Faulty params, data and checkpoints, many of each: a stage refuses them and changes nothing."""

import contextlib
import hashlib
import io
import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from paths import ROOT
from settings import COMMITTED, changed
from stages import STAGES, fail_stage, run_stage, write_params

from striate.config import params, validation
from striate.data import arrays, splits, tensors
from striate.datasets import image_folder, layouts
from striate.datasets.registry import DATASETS
from striate.errors import UserError
from striate.models import checkpoint, configs, normalization, prediction
from striate.training import loop, transfer
from striate.training.task import Task

LINES = (ROOT / "params.yaml").read_text().splitlines(keepends=True)
CONTENT = (ROOT / "params.yaml").read_bytes()
KEYS = sorted(params.flatten(COMMITTED))
quiet = {"deadline": None, "derandomize": True, "database": None,
         "suppress_health_check": list(HealthCheck)}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the four stages ran, as the working folder of all tests here."""
    folder = tmp_path_factory.mktemp("finished")
    write_params(folder, training__epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("STRIATE_MIRROR", raising=False)
        patch.setenv("STRIATE_TRACKING", "off")
        for name in STAGES:
            run_stage(name)
        yield folder


def state(folder):
    """Every path below a folder but locks, with its bytes and the time of its last change."""
    return {
        path: (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if ".dvc" not in path.parts
    }


def refusal(stage, folder):
    """Run a stage that must refuse its input and change nothing; gives its lines of errors."""
    before, written = state(folder), io.StringIO()
    with contextlib.redirect_stderr(written), pytest.raises(SystemExit) as caught:
        run_stage(stage)
    assert caught.value.code == 2
    assert state(folder) == before
    first, *more = written.getvalue().splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("       ") for line in more)
    assert "Traceback" not in written.getvalue()
    assert all(len(line) < 600 for line in (first, *more))
    return [first, *more]


# Params

any_value = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40),
    st.sampled_from([10**400, -(10**400), 2**63, 0, -1, 1]), st.floats(), st.text(), st.dates(),
    st.datetimes(), st.lists(st.integers(-5, 2000), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)  # fmt: skip
any_key = st.one_of(st.text(min_size=1), st.integers(), st.none(), st.booleans(), st.dates())
marks = st.sampled_from([
    "!!python/object/apply:os.system ['touch executed'] ", "!!python/name:os.system ", "!!int ",
    "!!binary ", "!!timestamp ", "!!set ", "!own ", "&a ", "*a ", "? ", "- ", "<<: ", "{", "[", "]",
    "'", '"', "%YAML 9.9\n", "---\n", "...\n", "\t", "\x00", "\x1b[31m", "@", "0x", "0b_", "1:99:1",
    "9" * 10_000, "[" * 2_000, "\n\n", "#", "=: 1\n", "2026-02-31", ".nan", ".inf", "\ud800",
])  # fmt: skip


def dumped(values):
    return yaml.safe_dump(values, allow_unicode=True).encode()


def without(key):
    values = changed()
    section, _, name = key.rpartition(".")
    del (values[section] if section else values)[name]
    return values


def with_unknown(section, key):
    values = changed()
    (values[section] if section else values)[key] = 1
    return values


def inserted(place, text):
    """Text put in the middle of the file, as bytes."""
    return CONTENT[:place] + text.encode("utf-8", "surrogatepass") + CONTENT[place:]


def with_value(pair):
    """The key of a pair, and the file in which it has the other's value."""
    key, value = pair
    return key, dumped(changed(**{key: value}))


places = st.integers(0, len(CONTENT))
values_start = st.sampled_from([CONTENT.index(b": ", CONTENT.index(key.split(".")[-1].encode()))
                                + 2 for key in KEYS])  # fmt: skip
# Pairs of the key that is at fault, where it is known, and the file.
faulty_params = st.one_of(
    st.tuples(st.sampled_from(KEYS), any_value).map(with_value),
    st.tuples(st.sampled_from(KEYS), any_value).map(with_value),
    st.tuples(st.sampled_from(["data", "augment", "model", "training", "evaluate"]), any_value).map(
        with_value
    ),
    st.sampled_from(KEYS).map(lambda key: (key, dumped(without(key)))),
    st.tuples(st.sampled_from(["", "data", "model"]), any_key).map(
        lambda t: (t[0], dumped(with_unknown(*t)))
    ),
    st.integers(0, len(LINES) - 1).map(
        lambda n: ("", "".join([*LINES[:n], LINES[n], *LINES[n:]]).encode())
    ),
    places.map(lambda n: ("", CONTENT[:n])),
    st.tuples(places, st.binary(min_size=1, max_size=20)).map(
        lambda t: ("", CONTENT[: t[0]] + t[1] + CONTENT[t[0] :])
    ),
    st.tuples(values_start | places, marks).map(lambda t: ("", inserted(*t))),
    st.binary(max_size=200).map(lambda content: ("", content)),
)


def is_valid(path):
    try:
        loaded = params.load(path)
        if loaded.data.name == "folder":
            image_folder.divided(layouts.find(Path(loaded.data.path)), loaded.data.test_size)
        entry = DATASETS[loaded.data.name]
        validation.check(loaded, entry.shape, len(entry.classes), entry.counts[0])
    except UserError:
        return False
    return True


@pytest.mark.slow
@settings(max_examples=500, **quiet)
@given(faulty_params)
def test_faulty_params_are_refused_by_name(finished, fault):
    key, content = fault
    path = finished / "params.yaml"
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        assume(not is_valid(path))
        said = "\n".join(refusal("download", finished))
        assert key in said
        assert "params.yaml" in said or any(f"{known} is " in said for known in KEYS)
        assert not (finished / "executed").exists()
    finally:
        path.write_bytes(before)


def range_of(key, schema):
    """The values that the schema allows for a key, but none that makes the training slow."""
    if "enum" in schema:
        return st.sampled_from([v for v in schema["enum"] if v not in ("cuda", "mps")])
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "string":
        return st.just("weights/random")
    most = {"layers": 3, "kernel_size": 9, "convs_per_layer": 3, "translate": 7, "cutout": 8,
            "shrink": 8, "whiten": 7, "orientations": 3, "heads": 2, "val_size": 15,
            "per_class": 1}  # fmt: skip
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    largest = min(schema.get("maximum", schema.get("exclusiveMaximum")), most.get(key, math.inf))
    if schema["type"] == "integer":
        return st.integers(least, largest - ("exclusiveMaximum" in schema))
    return st.floats(
        least, largest, exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema and key not in most,
    )  # fmt: skip


DRAWN_LATER = {
    "size", "split_seed", "fold", "leave_out", "width", "processes", "deterministic", "patch",
    "accumulate",
}  # fmt: skip


@st.composite
def valid_params(draw):
    """Any values of the schema, made to go together as it wants it."""
    values = {"seed": draw(st.integers(0, 2**32 - 1))}
    for section in ("data", "augment", "model", "training", "evaluate"):
        schema = params.sections()[section].model_json_schema()["properties"]
        values[section] = {
            key: draw(range_of(key, allowed))
            for key, allowed in schema.items()
            if key not in DRAWN_LATER
        }
    values["data"]["split_seed"] = draw(st.just("auto") | st.integers(0, 2**32 - 1))
    values["data"]["fold"] = draw(st.sampled_from(["none", "1/2", "3/5", "100/100"]))
    values["data"]["size"] = draw(st.sampled_from([0, 8, [8, 8]]))
    values["data"]["leave_out"] = "images/none.txt"
    training = values["training"]
    training["processes"] = draw(st.just("auto") | st.integers(1, 1024))
    training["deterministic"] = draw(st.sampled_from(["auto", "portable", True, False]))
    if training["deterministic"] == "portable":
        training["precision"] = "auto"
    training["accumulate"] = draw(st.integers(1, min(training["batch_size"], 20)))
    if training["batch_size"] == 1:
        values["augment"] |= {"mixup": 0.0, "cutmix": 0.0}
    model = values["model"]
    if model["residual"] and model["arch"] in ("convnet", "gabor"):
        model["convs_per_layer"] = max(model["convs_per_layer"], 2)
    widths = st.integers(2 if model["norm"] in ("group", "layer") else 1, 6)
    lists = st.lists(widths, min_size=model["layers"], max_size=model["layers"])
    config = configs.CONFIGS[model["arch"]]
    if issubclass(config, configs.UniformConfig):
        model["width"] = draw(widths) * model["heads"]
    else:
        model["width"] = draw(widths | lists)
    model["patch"] = draw(st.sampled_from([1, 2, 4, 8]))
    model["kernel_size"] -= model["kernel_size"] % 2 == 0
    if model["arch"] == "gabor":
        model["kernel_size"] = max(model["kernel_size"], 3)
    if values["data"]["val_size"] >= 1:
        values["data"]["val_size"] = float(int(values["data"]["val_size"]))
    for other in configs.every():  # networks of timm are not drawn
        model |= {key: off for key, off in other.off.items() if key not in config.model_fields}
    if not config.takes_any_size:
        values["augment"]["shrink"] = 0
    if model["arch"] == "convmixer":
        values["augment"]["shrink"] -= values["augment"]["shrink"] % model["patch"]
    values["data"] |= {"name": "digits", "size": 0}
    layers = configs.parse(model).layer_names()
    values["training"]["freeze"] = draw(st.sampled_from(["none", "features", *layers]))
    return values


def test_the_random_params_reach_every_key():
    keys = {key for key in params.flatten(COMMITTED) if key != "seed"}
    assert keys == {
        f"{section}.{name}"
        for section in COMMITTED
        if section != "seed"
        for name in params.sections()[section].model_fields
    }


@pytest.mark.slow
@settings(max_examples=200, **quiet)
@given(values=valid_params(), count=st.integers(1, 16))
def test_valid_params_take_a_step_or_say_that_the_loss_diverged(finished, values, count):
    loaded = params.check(values)
    manifest = arrays.load_manifest(Path("data"))
    everything = tensors.load_split(Path("data"), "train", torch.device("cpu"))
    some = tensors.Split(*(part[:count] for part in everything))
    of_each = some.labels.bincount(minlength=10).tolist()
    try:
        validation.check(loaded, manifest["shape"], len(manifest["classes"]), count)
        splits.check_per_class(loaded.data, manifest | {"train": {"per_class": of_each}})
    except UserError:
        assume(False)
    normalize = normalization.pick_normalization(manifest, loaded.data.normalize)
    torch.manual_seed(loaded.seed)
    model = checkpoint.build(checkpoint.describe(values["model"], manifest, normalize))
    train_set, val_set = tensors.train_val_split(
        some, loaded.data.val_size, loaded.split_seed, loaded.data.per_class, loaded.data.fold
    )
    model.fit_to_data(normalize(train_set.images))
    transfer.freeze_(model, loaded.training.freeze)
    try:
        row = next(loop.fit(model, Task(train_set, val_set, loaded, normalize)))
    except UserError as error:
        assert str(error).startswith("the loss became ")  # noqa: PT017
        return
    assert math.isfinite(row["train_loss"])
    logits = prediction.predict(
        model, some.images, normalize, batch_size=loaded.evaluate.batch_size,
        tta=loaded.evaluate.tta,
    )  # fmt: skip
    assert logits.shape == (count, 10)


# Stored data

ARRAYS = [f"data/{part}/{name}.npy" for part in ("train", "test") for name in ("images", "labels")]


def flipped(content, random):
    """The same bytes, but for one, whose highest bit is turned."""
    place = random.randint(len(content))
    return content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1 :]


def mangled(content, random):
    """Bytes that differ: cut, with a bit turned, emptied, grown or of another header."""
    return [
        lambda: content[: random.randint(len(content))],
        lambda: flipped(content, random),
        lambda: b"",
        lambda: content + random.bytes(random.randint(1, 100)),
        lambda: random.bytes(min(len(content), 128)) + content[128:],
        lambda: bytes(len(content)),
    ][random.randint(6)]()


@contextlib.contextmanager
def spoilt(*paths):
    """Put files back as they were, whatever becomes of them."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            if path.is_dir():
                shutil.rmtree(path)
            path.write_bytes(content)


def renew(path, content):
    """Write an array, and make the manifest speak of it."""
    buffer = io.BytesIO()
    if isinstance(content, np.ndarray):
        np.save(buffer, content)
        content = buffer.getvalue()
    path.write_bytes(content)
    manifest = json.loads(Path("data/manifest.json").read_text())
    part = manifest[path.parent.name]
    part["sha256"][path.name] = hashlib.sha256(content).hexdigest()
    Path("data/manifest.json").write_text(json.dumps(manifest))
    return part, manifest


# What reads which part of the data.
READERS = {"train": "train", "test": "evaluate"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_a_changed_array_is_refused_by_name(finished, seed):
    random = np.random.RandomState(seed)
    path = Path(ARRAYS[seed % 4])
    with spoilt(path, Path("data/manifest.json")):
        if seed % 3 == 0:
            other = Path(ARRAYS[(seed + 1 + random.randint(3)) % 4])
            path.write_bytes(other.read_bytes())
        else:
            path.write_bytes(mangled(path.read_bytes(), random))
        (line,) = refusal(READERS[path.parent.name], finished)
        assert f"{path} cannot be read: it is not the file that the manifest names" in line


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_an_array_that_the_manifest_was_changed_for_is_refused_by_name(finished, seed):
    random = np.random.RandomState(seed)
    path = Path(ARRAYS[seed % 4])
    array = np.load(path)
    with spoilt(path, Path("data/manifest.json")):
        if seed % 3 == 0:
            head, rest = path.read_bytes()[:128], path.read_bytes()[128:]
            shape = str(array.shape).encode()
            huge = (b"(%d," % 10 ** random.randint(5, 18)).ljust(12)
            renew(path, head.replace(shape[: shape.index(b",") + 1], huge)[:127] + b"\n" + rest)
        elif path.stem == "images":
            changes = [array[:-1], array.astype(np.int16), array[:, 0], array.swapaxes(0, 3)]
            renew(path, changes[random.randint(4)])
        else:
            low, high, empty = array.copy(), array.copy(), array.copy()
            low[random.randint(len(array))] = -random.randint(1, 100)
            high[random.randint(len(array))] = random.choice([10, 255, 2**40, 2**62])
            empty[array == random.randint(10)] = random.randint(10)
            empty[0] = (array[0] + 1) % 10
            renew(path, [low, high, empty, array[:-1], array.astype(float)][random.randint(5)])
        (line,) = refusal(READERS[path.parent.name], finished)
        assert line.startswith(f"error: {path} ")


WRONG = [None, -1, 0, True, [], {}, [1], 1e308, float("nan"), 10**30, "x", {"a": [1]}, "\x1b[31m"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_a_changed_manifest_is_refused_by_name(finished, seed):
    random = np.random.RandomState(seed)
    path = Path("data/manifest.json")
    with spoilt(path):
        if seed % 3 == 0:
            content = path.read_bytes()
            broken = [content[: random.randint(len(content) - 2)], flipped(content, random),
                      b"[" * 10**5, b"[1]"]  # fmt: skip
            path.write_bytes(broken[random.randint(4)])
        else:
            manifest = json.loads(path.read_text())
            keys = sorted(set(manifest) - {"name"})
            place, key = manifest, keys[random.randint(len(keys))]
            if key in ("train", "test") and random.randint(3):
                place, key = manifest[key], ["count", "per_class", "sha256"][random.randint(3)]
            if seed % 3 == 1:
                place[key] = WRONG[random.randint(len(WRONG))]
            else:
                del place[key]
            path.write_text(json.dumps(manifest))
        (line,) = refusal("train", finished)
        assert line.startswith("error: data/manifest.json")


@pytest.mark.parametrize("path", ["data/manifest.json", *ARRAYS])
def test_data_that_are_gone_or_a_folder_are_named(finished, path):
    stage = "evaluate" if "test" in path else "train"
    with spoilt(finished / path):
        Path(path).unlink()
        assert refusal(stage, finished)[0].startswith(f"error: {path}")
        Path(path).mkdir()
        assert refusal(stage, finished)[0].startswith(f"error: {path}")


# Checkpoints


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.fixture(scope="module")
def another(finished, tmp_path_factory):
    """The weights of another architecture, trained on the same data."""
    manifest = arrays.load_manifest(Path("data"))
    model = COMMITTED["model"] | {"width": 5, "layers": 1}
    description = checkpoint.describe(
        model, manifest, normalization.pick_normalization(manifest, "unit")
    )
    folder = tmp_path_factory.mktemp("another")
    checkpoint.save(checkpoint.build(description), description, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoil_weights(path, random, another):
    content = path.read_bytes()
    buffer = io.BytesIO()
    kind = random.randint(9)
    if kind == 6:
        torch.save({"fc.weight": Evil()}, buffer)
    if kind in (7, 8):
        path.unlink()
        return path.mkdir() if kind == 8 else None
    return path.write_bytes([
        flipped(content, random), content[: random.randint(len(content))], b"", bytes(len(content)),
        another["cnn_trained.ckpt"], pickle.dumps(Evil()), buffer.getvalue(),
    ][kind])  # fmt: skip


def spoil_description(path, random, another):
    content = path.read_bytes()
    values = json.loads(content)
    key = sorted(values)[random.randint(len(values))]
    inner = sorted(values["architecture"])[random.randint(len(values["architecture"]))]
    kind = random.randint(9)
    if kind >= 7:
        path.unlink()
        return path.mkdir() if kind == 8 else None
    return path.write_bytes([
        flipped(content, random), content[: random.randint(len(content) - 2)], b"",
        another["model.json"], json.dumps(values | {key: 10**9}).encode(),
        json.dumps(values | {"architecture": values["architecture"] | {inner: 10**9}}).encode(),
        json.dumps(values | {"more": 1}).encode(),
    ][kind])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_changed_checkpoint_is_refused_by_name(finished, another, seed):
    random = np.random.RandomState(seed)
    spoil = (spoil_weights, spoil_description)[seed % 2]
    path = Path("models", ("cnn_trained.ckpt", "model.json")[seed % 2])
    with spoilt(Path("models/cnn_trained.ckpt"), Path("models/model.json")):
        if seed % 4 == 0:  # as it was before there were checksums, which nothing then guards
            values = json.loads(Path("models/model.json").read_text())
            del values["sha256"]
            Path("models/model.json").write_text(json.dumps(values))
            while path.is_file() and zip_is_whole(path):
                spoil(path, random, another)
        else:
            spoil(path, random, another)
        (line,) = refusal("evaluate", finished)
        assert str(path) in line
        assert not Path("executed").exists()


def zip_is_whole(path):
    """Whether torch can read a file as the weights of the finished network."""
    try:
        return set(torch.load(path, weights_only=True)) >= {"layer2.0.weight"}
    except Exception:
        return False


# Memory


@pytest.mark.parametrize("shape", [(2**50,), (2**30, 2**30)])
def test_too_little_memory_is_said_in_a_line(finished, monkeypatch, shape):
    monkeypatch.setattr(loop, "fit", lambda *values, **keys: iter([torch.empty(shape)]))
    (line,) = refusal("train", finished)
    assert line.startswith("error: there is too little memory for this; reduce training.batch_size")


def test_any_other_error_of_torch_is_not_hidden(finished, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *values, **keys: iter([torch.empty(2) @ 1]))
    with pytest.raises(TypeError):
        run_stage("train")
    monkeypatch.setattr(loop, "fit", lambda *v, **k: iter([torch.zeros(2) @ torch.zeros(3)]))
    with pytest.raises(RuntimeError, match="size"):
        run_stage("train")


# What is in the way of an output


@pytest.mark.parametrize(
    ("stage", "output"),
    [("download", "data"), ("train", "models"), ("train", "metrics"), ("evaluate", "metrics"),
     ("evaluate", "predictions"), ("visualize", "reports")],
)  # fmt: skip
def test_a_file_in_the_place_of_an_output_is_named(
    finished, tmp_path, monkeypatch, capsys, stage, output
):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    shutil.rmtree(copy / output)
    (copy / output).write_text("in the way")
    (line,) = fail_stage(stage, capsys).splitlines()
    assert line.startswith(f"error: {output}")
    assert (copy / output).read_text() == "in the way"


# What visualize reads


@pytest.mark.parametrize("path", ["predictions/logits.npy", "metrics/history.csv"])
def test_other_results_that_are_mangled_are_named(finished, path):
    content = Path(path).read_bytes()
    with spoilt(Path(path)):
        for spoiled in (b"", content[:7], b"\xff" + content, b"a,b\n1\n", b"x" * 200_000):
            Path(path).write_bytes(spoiled)
            (line,) = refusal("visualize", finished)
            assert path in line
