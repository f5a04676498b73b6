"""The schema of params.yaml: one class a section, ranges and units, and no default values."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from striate.config.yaml_loader import ParamsError, read_yaml
from striate.datasets import registry
from striate.models import configs
from striate.models.defaults import DEFAULTS, RANDOM
from striate.schema import Section, explain

NO_LIST = "images/none.txt"  # as data.leave_out: an empty list
LARGEST_SIDE = 4096  # pixels of a stored image

# What experiments mean that are older than these keys.
OLDER: dict[str, Any] = {
    "data.resize": "crop",
    "data.leave_out": NO_LIST, "data.split_seed": "auto", "data.fold": "none",
    "data.per_class": 0, "augment.mixup": 0, "augment.cutmix": 0,
    "training.clip": 0, "training.accumulate": 1, "training.ema": 0,
    "training.class_weights": "none", "evaluate.neighbours": 3, "evaluate.shifted": 0,
} | {f"model.{key}": value for key, value in DEFAULTS.items()}  # fmt: skip

if TYPE_CHECKING:
    DataName = str
else:
    DataName = Literal[(*registry.names(), "folder")]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

FREEZE = "none, features, or the last layer to freeze, such as layer1"
PROCESSES = "auto, or a whole number from 1 to 1024"
DETERMINISTIC = "one of auto, portable, true, false"
SPLIT_SEED = "auto, or a whole number from 0 to 4294967295"
SIZE = "0, pixels up to 4096, or [height, width]"
FOLD = "none, or which of 2 to 100 parts, such as 1/5 for the first of five"


class Data(Section):
    """Which images, and how they are split and scaled."""

    name: DataName
    path: Annotated[str, Field(min_length=1)]
    size: Annotated[int | list[int], Field(description=SIZE)]
    resize: Literal["crop", "pad", "stretch"]
    test_size: Annotated[float, Field(gt=0, lt=1)]
    leave_out: Annotated[str, Field(min_length=1)]
    val_size: Annotated[float, Field(ge=0, le=1_000_000)]
    split_seed: Annotated[int | str, Field(description=SPLIT_SEED)]
    fold: Annotated[str, Field(description=FOLD)]
    per_class: Annotated[int, Field(ge=0, le=1_000_000)]
    normalize: Literal["unit", "standard"]
    residency: Literal["auto", "device", "host", "disk"]

    @field_validator("val_size")
    @classmethod
    def _fraction_or_count(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("a fraction from 0 to below 1, or a whole count of images")
        return value

    @field_validator("size", mode="before")
    @classmethod
    def _side_or_sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, list) else [value]
        least = 1 if isinstance(value, list) else 0
        if len(sides) != (2 if least else 1) or not all(
            type(side) is int and least <= side <= LARGEST_SIDE for side in sides
        ):
            raise ValueError(SIZE)
        return value

    @field_validator("fold")
    @classmethod
    def _one_of_its_parts(cls, value: str) -> str:
        match = re.fullmatch(r"([1-9]\d{0,2})/([1-9]\d{0,2})", value)
        part, parts = map(int, match.groups()) if match else (1, 0)
        if value != "none" and not (2 <= parts <= 100 and part <= parts):
            raise ValueError(FOLD)
        return value

    @field_validator("split_seed", mode="before")
    @classmethod
    def _seed_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (type(value) is int and 0 <= value < 2**32):
            raise ValueError(SPLIT_SEED)
        return value

    @property
    def stored_size(self) -> tuple[int, int] | None:
        """Height and width to which own images are resized; None keeps them as they are."""
        sides = self.size if isinstance(self.size, list) else [self.size] * 2
        return (sides[0], sides[1]) if sides[0] else None

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if self.size and self.name != "folder":
            raise ValueError(
                f"data.size is {self.size}; it must be 0 where data.name is {self.name}, whose"
                " images have one size"
            )
        if self.leave_out != NO_LIST and self.name != "folder":
            raise ValueError(
                f"data.leave_out is {self.leave_out}; it must be {NO_LIST} where"
                f" data.name is {self.name}, which is not made of files of your own"
            )
        return self


class Augment(Section):
    """Random changes of the training images; lengths in pixels, angles in degrees."""

    translate: Annotated[int, Field(ge=0, le=1024)]
    flip: bool
    rotate: Annotated[float, Field(ge=0, le=180)]
    zoom: Fraction
    cutout: Annotated[int, Field(ge=0, le=1024)]
    shrink: Annotated[int, Field(ge=0, le=1024)]
    shrink_until: Annotated[float, Field(ge=0, le=1)]
    mixup: Annotated[float, Field(ge=0, le=100)]
    cutmix: Annotated[float, Field(ge=0, le=100)]


class Training(Section):
    """The optimisation; the learning rate is the peak of its schedule."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["adam", "adamw", "sgd", "muon"]
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    bias_rate: Annotated[float, Field(ge=0, le=10_000)]
    head_rate: Annotated[float, Field(ge=0, le=10_000)]
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    schedule: Literal["constant", "linear", "cosine"]
    warmup: Fraction
    label_smoothing: Fraction
    clip: Annotated[float, Field(ge=0, le=1_000_000)]
    accumulate: Count
    ema: Fraction
    class_weights: Literal["none", "balanced"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    processes: Annotated[int | str, Field(description=PROCESSES)]
    precision: Literal["auto", "float32", "bfloat16"]
    capture: Literal["auto", "never"]
    deterministic: Annotated[bool | str, Field(description=DETERMINISTIC)]
    log_every: Count
    keep: Literal["last", "best"]
    patience: Annotated[int, Field(ge=0, le=1_000_000)]
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10_000)]
    init_from: Annotated[str, Field(min_length=1)]
    freeze: Annotated[str, Field(pattern=r"^\w+$", description=FREEZE)]

    @field_validator("processes", mode="before")
    @classmethod
    def _count_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (type(value) is int and 1 <= value <= 1024):
            raise ValueError(PROCESSES)
        return value

    @field_validator("deterministic", mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> Any:
        if value not in ("auto", "portable") and type(value) is not bool:
            raise ValueError(DETERMINISTIC)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.deterministic == "portable" and self.precision != "auto":
            raise ValueError(
                f"training.precision is {self.precision}; it must be auto where"
                " training.deterministic is portable, which computes in float32"
            )
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"training.accumulate is {self.accumulate}; it must be at most"
                f" training.batch_size, {self.batch_size}, which it divides"
            )
        return self


class Evaluate(Section):
    """How the test images are scored."""

    batch_size: Count
    tta: Literal["none", "flip", "translate", "flip_translate"]
    neighbours: Annotated[int, Field(ge=0, le=10)]
    shifted: Annotated[int, Field(ge=0, le=1_000_000)]


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    augment: Augment
    model: SerializeAsAny[configs.NetworkConfig]
    training: Training
    evaluate: Evaluate

    @property
    def split_seed(self) -> int:
        """The seed of the validation split, and of the images that `data.per_class` takes."""
        own = self.data.split_seed
        return own if isinstance(own, int) else self.seed

    @field_validator("model", mode="before")
    @classmethod
    def _keys_of_its_network(cls, values: Any) -> configs.NetworkConfig:
        return configs.parse(values)

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.augment.shrink and not self.model.takes_any_size:
            raise ValueError(
                f"augment.shrink is {self.augment.shrink}; it must be 0 where model.arch is"
                f" {self.model.arch}, which takes images of one size only"
            )
        for key in ("mixup", "cutmix"):
            if getattr(self.augment, key) and self.training.batch_size == 1:
                raise ValueError(
                    f"augment.{key} is {getattr(self.augment, key)}; it must be 0 where"
                    " training.batch_size is 1, which leaves no image to mix with"
                )
        self._check_pretrained()
        known = ["none", "features", *self.model.layer_names()]
        if self.training.freeze not in known:
            fixed = "layers" not in type(self.model).model_fields
            raise ValueError(
                f"training.freeze is {self.training.freeze}; it must be one of {', '.join(known)}"
                f" where model.arch is {self.model.arch}"
                f"{'' if fixed else f' and model.layers {self.model.layers}'}"
            )
        return self

    def _check_pretrained(self) -> None:
        if not (isinstance(self.model, configs.TimmConfig) and self.model.pretrained):
            return
        if self.data.normalize != "unit":
            raise ValueError(
                f"data.normalize is {self.data.normalize}; it must be unit where model.pretrained"
                " is true, as the network normalizes images as its weights expect"
            )
        if Path(self.training.init_from) == RANDOM:
            raise ValueError(
                "training.init_from is weights/random; where model.pretrained is true it must be"
                f" the folder of those weights: $(striate fetch {self.model.arch})"
            )


def sections() -> dict[str, type[BaseModel]]:
    """The class of each section by its name; that of the whole file is `""`."""
    return {
        "": Params,
        "data": Data,
        "augment": Augment,
        "model": configs.section(),
        "training": Training,
        "evaluate": Evaluate,
    }


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds faulty values; the message has
            a line for each fault: the key, the value and what is allowed.
    """
    return check(read_yaml(path), path)


def check(values: dict[Any, Any], path: str | Path = "params.yaml") -> Params:
    """Check values against the schema; `path` is named in the message.

    Raises:
        ParamsError: as in `load`.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError(explain(error, path, sections())) from None


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into one level: `{"model": {"layers": 2}}` → `{"model.layers": 2}`.

    A float without a fraction becomes an integer, so that 0 and 0.0 are one value.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            whole = isinstance(value, float) and value.is_integer()
            flat[prefix + key] = int(value) if whole else value
    return flat


def meant(flat: Mapping[str, Any], key: str, unknown: Any = None) -> Any:
    """The value of a key in the flat params of an experiment, which may be older than the key."""
    return flat.get(key, OLDER.get(key, unknown))


def nested(values: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Put values with keys such as `model.width` into `sections`; returns these."""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            if not isinstance(sections.get(section), dict):
                sections[section] = {}  # what the schema then says is missing
            sections[section][name] = value
        else:
            sections[name] = value
    return sections
