"""Which settings of a recipe are taken back to their defaults, and which of them together."""

import pytest
from paths import ROOT
from settings import changed

from striate.config import ablation, params, recipes


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan(name, kept=(), **changes):
    """The plan of a recipe that is changed, against params.yaml."""
    default = params.load()
    values = params.nested(params.flatten(recipes.read(name)), default.model_dump())
    for key, value in changes.items():
        params.nested({key.replace("__", "."): value}, values)
    return ablation.plan(params.check(values), default, kept)


def keys(found):
    return {change.key: set(change.after) - {change.key} for change in found.changes}


RATES = {f"training.{name}" for name in ("learning_rate", "bias_rate", "head_rate", "momentum")}
SPEEDRUN = {
    f"model.{name}"
    for name in ("layers", "width", "kernel_size", "convs_per_layer", "activation", "whiten")
}


def test_each_setting_is_taken_back_alone_or_with_what_goes_with_it():
    found = keys(plan("mnist-fast"))
    assert found.pop("training.optimizer") == RATES
    assert found.pop("model.arch") == SPEEDRUN
    assert found.pop("model.layers") == {"model.width"}  # a list has a width for each layer
    assert found.pop("everything") >= RATES | SPEEDRUN | {"training.epochs", "evaluate.tta"}
    assert set(found) >= RATES | SPEEDRUN - {"model.layers"} | {"data.val_size", "augment.zoom"}
    assert set(map(frozenset, found.values())) == {frozenset()}
    assert "data.name" not in found


def test_shrunk_images_go_with_their_fraction_and_not_with_another_network():
    found = keys(plan("cifar10-fast"))
    assert found["augment.shrink"] == {"augment.shrink_until"}
    assert "augment.shrink_until" not in found
    assert found["model.arch"] == SPEEDRUN | {"augment.shrink", "augment.shrink_until"}


def test_a_network_of_timm_has_its_own_keys():
    found = keys(plan("mnist-99", model__arch="timm:resnet18", model__dropout=0.1,
                      model__whiten=0, augment__shrink=0, training__freeze="none"))  # fmt: skip
    assert "model.dropout" in found
    assert "model.width" not in found


def test_all_changes_are_valid_and_end_in_the_defaults():
    default = params.load()
    found = plan("cifar10-94")
    recipe = params.check(
        params.nested(params.flatten(recipes.read("cifar10-94")), default.model_dump())
    )
    before = params.flatten(recipe.model_dump())
    for change in found.changes:
        flat = params.flatten(params.check(ablation.sections(recipe, change)).model_dump())
        assert {key for key in flat if flat[key] != before[key]} == set(change.after)
    # The last one is of everything.
    differing = {k for k, v in params.flatten(default.model_dump()).items() if flat[k] != v}
    assert differing <= ablation.KEPT
    assert found.skipped == {}


def test_keys_that_the_network_or_the_optimizer_does_not_read_stay():
    found = keys(plan("ladder/mlp", training__momentum=0.5, model__patch=4))
    assert "training.momentum" not in found
    assert "model.patch" not in found
    assert "model.activation" in found


PUBLISHED = {
    "model__arch": "timm:resnet18",
    "model__pretrained": True,
    "training__init_from": "weights/resnet18",
    "data__normalize": "unit",
}


def of_timm(default, **changes):
    """The plan of a network of timm, against params.yaml with changes."""
    wanted = params.check(changed(**PUBLISHED | {"training__epochs": 7} | changes))
    return ablation.plan(wanted, params.check(changed(**default)))


def test_a_network_of_timm_is_taken_apart():
    found = keys(of_timm({}, model__dropout=0.3))
    weights = {"training.init_from", "model.pretrained"}
    assert weights < found["model.arch"]
    assert found["model.pretrained"] == {"training.init_from"}
    assert "training.init_from" not in found  # which is the same change
    assert {"model.dropout", "training.epochs", "everything"} < set(found)
    assert "model.layers" not in found


def test_published_weights_go_with_the_network_that_takes_them():
    # Images that are standardized go with neither.
    found = keys(of_timm({"data__normalize": "standard"}))
    assert found["data.normalize"] == {"model.pretrained", "training.init_from"}
    # One network with and without published weights: everything is one change and the epochs.
    same = {"model__arch": "timm:resnet18", "data__normalize": "unit"}
    found = keys(of_timm(same))
    assert list(found) == ["model.pretrained", "training.epochs", "everything"]


def test_everything_is_no_second_time_what_one_change_is():
    default = params.check(changed(model__layers=2, model__width=16))
    wanted = params.check(changed(model__layers=3, model__width=[4, 8, 8]))
    found = ablation.plan(wanted, default)
    sets = [frozenset(change.after) for change in found.changes]
    assert frozenset({"model.layers", "model.width"}) in sets
    assert len(sets) == len(set(sets))
    assert "everything" not in keys(found)


def test_what_is_to_be_kept_is_kept():
    found = plan("ladder/convnet", ["training.epochs", "training.schedule"])
    assert all("training.epochs" not in change.after for change in found.changes)
    assert "training.schedule" not in keys(found)


def test_what_would_not_be_valid_is_joined_or_skipped_with_the_reason():
    default = params.check(changed(data__val_size=0))
    values = changed(data__val_size=0.2, training__keep="best", training__epochs=7)
    found = ablation.plan(params.check(values), default)
    assert keys(found)["data.val_size"] == {"training.keep"}
    found = ablation.plan(params.check(values), default, ["training.keep"])
    assert "training.keep is best" in found.skipped["data.val_size"]
    assert list(keys(found)) == ["training.epochs"]


def test_nothing_differs_from_itself():
    default = params.load()
    assert ablation.plan(default, default) == ([], {})
