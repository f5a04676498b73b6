"""The schema of params.yaml: one class a section, ranges and units, and no default values."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from striate.datasets import registry
from striate.errors import UserError

if TYPE_CHECKING:
    DataName = str
else:
    DataName = Literal[(*registry.names(), "folder")]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

FREEZE = r"^(none|features|layer([1-9]|1[0-6]))$"
FREEZE_SAID = "none, features, or the last layer that is frozen, such as layer1"
PROCESSES = "auto, or a whole number from 1 to 1024"
DETERMINISTIC = "one of auto, portable, true, false"
WIDTH = "a whole number from 1 to 1024, or a list of them, one for each layer"
MOST_BYTES = 100_000  # of a params file; the committed one has a few thousand
MOST_FAULTS = 20  # that are listed


class ParamsError(UserError):
    """params.yaml cannot be read, or holds values that the schema refuses."""


class Section(BaseModel):
    """A section: unknown keys are refused, types are not coerced, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how they are split and scaled."""

    name: DataName
    path: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=0, le=1024)]
    test_size: Annotated[float, Field(gt=0, lt=1)]
    val_size: Annotated[float, Field(ge=0, le=1_000_000)]
    normalize: Literal["unit", "standard"]
    residency: Literal["auto", "device", "host", "disk"]

    @field_validator("val_size")
    @classmethod
    def _fraction_or_count(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError("a fraction from 0 to below 1, or a whole count of images")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        if self.size and self.name != "folder":
            raise ValueError(
                f"data.size is {self.size}; it must be 0 where data.name is {self.name}, whose"
                " images have one size"
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


class Model(Section):
    """The network: the arguments of those in `striate.models.networks` that a user chooses."""

    arch: Literal["convnet", "speedrun"]
    layers: Annotated[int, Field(ge=1, le=16)]
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
            raise ValueError(WIDTH)
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
    processes: int | str
    precision: Literal["auto", "float32", "bfloat16"]
    capture: Literal["auto", "never"]
    deterministic: bool | str
    log_every: Count
    keep: Literal["last", "best"]
    patience: Annotated[int, Field(ge=0, le=1_000_000)]
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10_000)]
    init_from: Annotated[str, Field(min_length=1)]
    freeze: Annotated[str, Field(pattern=FREEZE)]

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
        return self


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
        freeze = self.training.freeze
        if freeze.startswith("layer") and int(freeze[5:]) > self.model.layers:
            raise ValueError(
                f"training.freeze is {freeze}, but model.layers is {self.model.layers}"
            )
        return self


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, eight times as fast where it is libyaml's."""


class _PlainLoader(yaml.SafeLoader):
    """Less what params need not have and what would surprise their reader.

    A tag would make objects, an alias can make a few lines stand for millions of values, and of
    two equal keys the last would win in silence.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused("an alias or anchor (& or *) has no place here", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"the tag {_shown(event.tag)} has no place here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _refused(f"the key {_shown(key.value)} stands twice", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("the key '<<' has no place here", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):  # the 31st of February, or a number without an end
            raise _refused(f"{_shown(node.value)} is not a value", node.start_mark) from None


# For both, 1e-05 is a number, as it is for DVC, which writes it so.
for _loader in (Loader, _PlainLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Read a YAML file of plain values that begins with keys.

    Raises:
        ParamsError: the file is missing, too large or not such YAML; the message has one line.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        text = content.decode() if len(content) <= MOST_BYTES else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamsError(
            f"{path} cannot be read: {reason}; commands run at the root of the repository"
        ) from None
    if text is None:
        raise ParamsError(f"{path} has more than {MOST_BYTES:,} bytes, too many for such a file")
    try:
        values = yaml.load(text, _PlainLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(
            f"{path}{place} is not valid YAML: {' '.join(str(problem).split())}"
        ) from None
    except RecursionError:
        raise ParamsError(f"{path} is not valid YAML: it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must hold keys and their values, as `key: value`")
    return values


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a params file.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds faulty values; the message has
            one line for each fault: the key, the value and what is allowed.
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
        raise _explained(error, path) from None


def check_model(values: dict[str, Any], path: str | Path) -> Model:
    """Check values against the section `model` alone, as `check` does.

    Raises:
        ParamsError: as in `load`.
    """
    try:
        return Model.model_validate(values)
    except ValidationError as error:
        raise _explained(error, path, ("model",)) from None


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


def _explained(
    error: ValidationError, path: str | Path, section: tuple[str, ...] = ()
) -> ParamsError:
    """All faults that pydantic found in the params or in one section, a line each."""
    faults = [
        f"{path}: {_explain(section + fault['loc'], fault)}"
        for fault in error.errors()[:MOST_FAULTS]
    ]
    if error.error_count() > MOST_FAULTS:
        faults.append(f"{path}: and {error.error_count() - MOST_FAULTS} more faults")
    return ParamsError("\n       ".join(faults))


def _explain(loc: tuple[Any, ...], fault: Any) -> str:
    """One line for a fault at a place: key, value, what is allowed."""
    key = ".".join(_key(part) for part in loc)
    if fault["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a known key; known here: {_known_keys(loc[:-1])}"
    if fault["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(loc)}"
    if fault["type"] != "value_error":
        return f"{key} is {_shown(fault['input'])}; it must be {_allowed(loc)}"
    if len(loc) < 2:
        return str(fault["ctx"]["error"])  # of keys that do not go together
    return f"{key} is {_shown(fault['input'])}; it must be {fault['ctx']['error']}"


def _shown(value: Any) -> str:
    """A value as text without line breaks, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write a whole number of thousands of digits
        text = f"a number of {value.bit_length():,} bits"
    return text[:60] + "…" if len(text) > 61 else text


def _key(part: Any) -> str:
    plain = str(part).isidentifier() and str(part).isascii() and len(str(part)) <= 60
    return str(part) if plain or isinstance(part, int) else _shown(part)


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
    schema = _section(loc[:-1]).model_json_schema()["properties"][loc[-1]]
    if "$ref" in schema:
        return f"a section with the keys {_known_keys(loc)}"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "anyOf" in schema:
        return {"width": WIDTH, "processes": PROCESSES, "deterministic": DETERMINISTIC}[loc[-1]]
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return FREEZE_SAID if "pattern" in schema else "a path"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    above, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    below, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    low = f"from {least:.15g}" if above is None else f"above {above:.15g}"
    if below is not None:
        return f"{kind} {low} to below {below:.15g}"
    return f"{kind} {low} to {most:.15g}"
