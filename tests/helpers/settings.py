"""The committed params.yaml, and what tests change in it.

A key is written `section__name`, or `section.name` where it is a string: `training__epochs=2`.
"""

import copy

import yaml
from paths import ROOT

from striate.config import params

COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(**changes):
    """The committed values with some keys changed, as plain dicts that nothing has checked."""
    values = copy.deepcopy(COMMITTED)
    for key, value in changes.items():
        *sections, last = key.replace("__", ".").split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    return values


def write_yaml(folder, **changes):
    """Write them as the params.yaml of a folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(changed(**changes)))


def settings(**changes):
    """The changed params, checked by the schema: sections with the values that a stage reads."""
    return params.check(changed(**changes))


def architecture(**changes):
    """The keys of the section `model`, some of them changed, as `registry.build` takes them."""
    model = settings(**{f"model__{key}": value for key, value in changes.items()}).model
    return model.model_dump()
