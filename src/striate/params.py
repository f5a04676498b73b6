"""The schema of params.yaml: one class a section, ranges and units, and no default values."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from striate.errors import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class ParamsError(UserError):
    """params.yaml cannot be read, or holds values that the schema refuses."""


class Section(BaseModel):
    """A section: unknown keys are refused, types are not coerced, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how they are split and scaled."""

    name: Literal["digits", "mnist", "cifar10"]
    val_size: Annotated[float, Field(ge=0)]
    normalize: Literal["unit", "standard"]

    @field_validator("val_size")
    @classmethod
    def _fraction_or_count(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("a fraction from 0 to below 1, or a whole count of images")
        return value


class Augment(Section):
    """Random changes of the training images; lengths in pixels, angles in degrees."""

    translate: Annotated[int, Field(ge=0, le=1024)]
    flip: bool
    rotate: Annotated[float, Field(ge=0, le=180)]
    zoom: Fraction
    cutout: Annotated[int, Field(ge=0, le=1024)]
    shrink: Annotated[int, Field(ge=0, le=1024)]
    shrink_until: Annotated[float, Field(ge=0, le=1)]


class Model(Section):
    """The network: the arguments of those in `striate.models` that a user chooses."""

    arch: Literal["convnet", "speedrun"]
    layers: Count
    width: int | list[int]
    kernel_size: Annotated[int, Field(ge=1, le=31)]
    convs_per_layer: Annotated[int, Field(ge=1, le=16)]
    norm: Literal["batch", "none"]
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh"]
    dropout: Fraction
    whiten: Annotated[int, Field(ge=0, le=8)]

    @field_validator("width", mode="before")
    @classmethod
    def _channels(cls, value: Any) -> Any:
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(type(one) is int and 1 <= one <= 1024 for one in listed):
            raise ValueError("a whole number from 1 to 1024, or a list of them, one for each layer")
        return value

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an odd whole number, so that padding keeps the image's size")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Model":
        if isinstance(self.width, list) and len(self.width) != self.layers:
            raise ValueError(
                f"model.width lists {len(self.width)} layers, but model.layers is {self.layers}"
            )
        if self.whiten and self.arch != "speedrun":
            raise ValueError(
                f"model.whiten is {self.whiten}; it must be 0 where model.arch is {self.arch}"
            )
        return self


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
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]
    capture: Literal["auto", "never"]
    deterministic: bool
    log_every: Count
    keep: Literal["last", "best"]
    patience: Annotated[int, Field(ge=0, le=1_000_000)]
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10_000)]


class Evaluate(Section):
    """How the test images are scored."""

    batch_size: Count
    tta: Literal["none", "flip", "translate", "flip_translate"]


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: Data
    augment: Augment
    model: Model
    training: Training
    evaluate: Evaluate

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.augment.shrink and self.model.arch != "speedrun":
            raise ValueError(
                f"augment.shrink is {self.augment.shrink}; it must be 0 where model.arch is"
                f" {self.model.arch}, which takes images of one size only"
            )
        for key, value, off in (
            ("keep", self.training.keep, "last"),
            ("patience", self.training.patience, 0),
        ):
            if value != off and self.data.val_size == 0:
                raise ValueError(
                    f"training.{key} is {value}, which goes by validation images; it must be {off}"
                    " where data.val_size is 0"
                )
        return self


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, which by itself lets the last of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds faulty values; the message has
            one line for each fault: the key, the value and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamsError(
            f"{path} cannot be read: {reason}; commands run at the root of the repository"
        ) from None
    try:
        values = yaml.load(text, _UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}{place} is not valid YAML: {problem}") from None
    except RecursionError:
        raise ParamsError(f"{path} is not valid YAML: it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected the keys {', '.join(Params.model_fields)}")
    return check(values, path)


def check(values: dict[str, Any], path: str | Path = "params.yaml") -> Params:
    """Check values against the schema; `path` is named in the message.

    Raises:
        ParamsError: as in `load`.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = [f"{path}: {_explain(fault)}" for fault in error.errors()]
        raise ParamsError("\n       ".join(faults)) from None


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


def _explain(fault: Any) -> str:
    """One line for a fault that pydantic found: key, value, what is allowed."""
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a known key; known here: {_known_keys(fault['loc'][:-1])}"
    if fault["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(fault['loc'])}"
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return str(fault["ctx"]["error"])  # of keys that do not go together
    value = repr(fault["input"])
    return f"{key} is {value[:60] + '…' if len(value) > 61 else value}; it must be " + (
        str(fault["ctx"]["error"]) if fault["type"] == "value_error" else _allowed(fault["loc"])
    )


def _known_keys(section: tuple[Any, ...]) -> str:
    model = _section(section)
    return ", ".join(model.model_fields)


def _section(loc: tuple[Any, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Params
    for part in loc:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type)  # noqa: S101
        model = annotation
    return model


def _allowed(loc: tuple[Any, ...]) -> str:
    """What the schema allows at a key, in words."""
    if loc[0] not in Params.model_fields:
        return "text"
    schema = _section(loc[:-1]).model_json_schema()["properties"][loc[-1]]
    if "$ref" in schema:
        return f"a section with the keys {_known_keys(loc)}"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    above, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    below, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    low = f"from {least:.15g}" if above is None else f"above {above:.15g}"
    if below is not None:
        return f"{kind} {low} to below {below:.15g}"
    if most is not None:
        return f"{kind} {low} to {most:.15g}"
    return f"{kind} {low} up" if above is None else f"{kind} {low}"
