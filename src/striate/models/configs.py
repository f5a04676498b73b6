"""What each network reads of the section `model`, and what follows from it without torch.

Params are checked with these classes before anything is downloaded or built. A new network adds
its class at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from math import prod
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from striate.errors import UserError
from striate.models import sizing
from striate.models.defaults import DEFAULTS, IMPLIED
from striate.schema import Section, explain

CONVOLUTIONAL = "convolutional network"  # a kind
WIDTH = "a whole number from 1 to 1024, or a list of them, one for each layer"


def _check_width(value: Any) -> Any:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(type(one) is int and 1 <= one <= 1024 for one in listed):
        raise ValueError(WIDTH)
    return value


def _check_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd whole number, so that padding keeps the image's size")
    return value


# Keys that several networks read. One key means the same in all of them.
Layers = Annotated[int, Field(ge=1, le=16)]
Width = Annotated[int | list[int], BeforeValidator(_check_width), Field(description=WIDTH)]
KernelSize = Annotated[int, Field(ge=1, le=31), AfterValidator(_check_odd)]
ConvsPerLayer = Annotated[int, Field(ge=1, le=16)]
Norm = Literal["batch", "group", "layer", "none"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "tanh"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Pool = Literal["max", "average", "stride"]
Patch = Annotated[int, Field(ge=1, le=64)]


class NetworkConfig(Section):
    """The keys that a network reads, all of them arguments of its class.

    Keys that only other networks read are kept beside them, each checked by itself.
    """

    model_config = ConfigDict(extra="allow")

    # Keys of this network alone that other networks accept with one value only, which means "off".
    off: ClassVar[dict[str, Any]] = {}
    # Whether trained weights take images of any size, as `augment.shrink` needs it.
    takes_any_size: ClassVar[bool] = False
    # Keys by which a message says what makes the images too small, and the network too large.
    size_keys: ClassVar[str] = "model.layers"
    weight_keys: ClassVar[str] = "model.width and layers"
    # What the model card calls the network, and the report the weights that it draws.
    kind: ClassVar[str] = "network"
    drawn: ClassVar[str] = "each convolution"

    arch: str
    layers: Layers
    width: Width

    @model_validator(mode="after")
    def _one_width_for_each_layer(self) -> NetworkConfig:
        if isinstance(self.width, list) and len(self.width) != self.layers:
            raise ValueError(
                f"model.width lists {len(self.width)} layers, but model.layers is {self.layers}"
            )
        return self

    def layer_names(self) -> list[str]:
        """The names of the layers, in order, as `Network.layers` has them."""
        return [f"layer{number}" for number in range(1, self.layers + 1)]

    def smallest_side(self) -> int:
        """The side in pixels of the smallest square image that the network takes."""
        return 1

    def check_size(self, size: Sequence[int]) -> None:
        """Refuse images that are too small, by height and width.

        Raises:
            UserError: names the key and the largest possible value.
        """

    def normalizes_one_value(self, side: int) -> bool:
        """Whether a norm sees one value a channel of a single image with this smaller side."""
        return False

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """How many parameters the network has, those that do not learn included.

        Args:
            shape: channels, height and width of an image.
            classes: how many outputs there are.
        """
        raise NotImplementedError

    def check_fits(self, shape: Sequence[int], classes: int) -> None:
        """Refuse images that are too small for the network, and a network too large to train.

        Args:
            shape: channels, height and width of an image.
            classes: how many outputs there are.

        Raises:
            UserError: names the keys.
        """
        self.check_size(shape[1:])
        found = self.count_parameters(shape, classes)
        if found > sizing.MAX_PARAMETERS:
            raise UserError(
                f"{self.weight_keys} make {found:,} parameters;"
                f" the largest possible number is {sizing.MAX_PARAMETERS:,}"
            )

    def architecture(self) -> dict[str, Any]:
        """What `model.json` keeps: the keys that the network reads, and what others have off."""
        off = {key for config in every() for key in config.off}
        known = {*type(self).model_fields, *off}
        return {
            key: value
            for key, value in self.model_dump().items()
            if key in known and not (key in IMPLIED and value == IMPLIED[key])
        }

    def unread(self) -> dict[str, Any]:
        """Keys that were changed from their defaults, and that the network does not read."""
        return {
            key: value
            for key, value in self.model_dump().items()
            if key not in type(self).model_fields and value != DEFAULTS.get(key, value)
        }


C = TypeVar("C", bound=NetworkConfig)

CONFIGS: dict[str, type[NetworkConfig]] = {}  # by `model.arch`; those of timm are not listed
TIMM = re.compile(r"timm:\w+(\.\w+)?")  # as `model.arch`: a network of timm, and perhaps its tag


def register(arch: str) -> Callable[[type[C]], type[C]]:
    """Make a class the config of the network that `model.arch` calls `arch`."""

    def add(config: type[C]) -> type[C]:
        CONFIGS[arch] = config
        return config

    return add


def every() -> list[type[NetworkConfig]]:
    """The configs of all networks, those of timm last."""
    return [*CONFIGS.values(), TimmConfig]


def find(arch: Any) -> type[NetworkConfig] | None:
    """The config of the network that a value of `model.arch` names; None if there is none."""
    if not isinstance(arch, str):
        return None
    return TimmConfig if TIMM.fullmatch(arch) else CONFIGS.get(arch)


def section() -> type[Section]:
    """The section `model` of params.yaml: `arch`, and the keys of all networks."""
    known = f"one of {', '.join(CONFIGS)}, or timm:NAME, such as timm:resnet18"

    def check_arch(value: str) -> str:
        if find(value) is None:
            raise ValueError(known)
        return value

    field = Field(description=known, json_schema_extra={"enum": [*CONFIGS]})
    fields: dict[str, Any] = {"arch": (Annotated[str, AfterValidator(check_arch), field], ...)}
    for config in every():
        for key, field in config.model_fields.items():
            fields.setdefault(key, (field.annotation, field))
    return create_model("Model", __base__=Section, **fields)


def parse(values: Any) -> NetworkConfig:
    """Check the section `model`: its network's keys, and those of others each by itself.

    Raises:
        ValidationError, ValueError: a key is faulty, or contradicts another.
    """
    schema = section()
    arch = values.get("arch") if isinstance(values, dict) else None
    config = find(arch)
    if config is None:
        schema.model_validate(values)  # raises, and names all faults
        raise ValueError(f"model.arch is {arch}, of which there is no network")
    others = {
        key: value
        for key, value in values.items()
        if key in schema.model_fields and key not in config.model_fields
    }
    own = {key: value for key, value in values.items() if key not in others}
    checked = config.model_validate(own, extra="forbid")
    for other in every():
        for key, off in other.off.items():
            if key in others and (type(others[key]), others[key]) != (type(off), off):
                raise ValueError(
                    f"model.{key} is {as_yaml(others[key])}; it must be {as_yaml(off)} where"
                    f" model.arch is {arch}"
                )
    fields: dict[str, Any] = {
        key: (field.annotation, field)
        for key, field in schema.model_fields.items()
        if key in others
    }
    create_model("Others", __base__=Section, **fields).model_validate(others)
    return checked.model_copy(update=others)


def as_yaml(value: Any) -> str:
    """A value as params.yaml has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check(values: Any, source: str) -> NetworkConfig:
    """Like `parse`, with a message for people that names the source of the values.

    Raises:
        UserError: has a line for each fault: the key, the value and what is allowed.
    """
    try:
        return parse(values)
    except ValidationError as error:
        raise UserError(explain(error, source, {"model": section()}, inside="model")) from None
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def stated_size(params: Mapping[str, Any]) -> dict[str, Any]:
    """`layers` and `width` of flat params, such as `model.layers`, where the network reads them.

    It takes params of any network, also of one that is not known here.
    """
    config = find(params.get("model.arch"))
    return {
        key: params[f"model.{key}"]
        for key in ("layers", "width")
        if f"model.{key}" in params and (config is None or key in config.model_fields)
    }


def check_norm(norm: str, width: int | list[int]) -> None:
    """Refuse a norm of a single channel, which may have one value.

    Raises:
        ValueError: names the keys.
    """
    narrowest = min(width) if isinstance(width, list) else width
    if norm in ("group", "layer") and narrowest < 2:
        raise ValueError(
            f"model.width is {width}; each layer must have 2 channels or more where model.norm is"
            f" {norm}"
        )


class PlainConvConfig(NetworkConfig):
    """Layers of several convolutions, each with a norm and an activation; then a linear layer."""

    weight_keys = "model.width, layers, kernel_size and convs_per_layer"
    kind = CONVOLUTIONAL

    kernel_size: KernelSize
    convs_per_layer: ConvsPerLayer
    norm: Norm
    activation: Activation
    dropout: Dropout

    @model_validator(mode="after")
    def _two_values_to_normalize(self) -> PlainConvConfig:
        check_norm(self.norm, self.width)
        return self

    def count_convs(self, inputs: int, widths: list[int], *, bias: bool) -> int:
        """How many parameters the convolutions and their norms have.

        Args:
            inputs: channels of the first layer's input.
            widths: channels of each layer.
            bias: whether the convolutions have biases.
        """
        return sum(
            sizing.conv_parameters(*pair, self.kernel_size, bias=bias, norm=self.norm != "none")
            for pair in sizing.conv_channels(inputs, widths, self.convs_per_layer)
        )


@register("convnet")
class ConvNetConfig(PlainConvConfig):
    """`striate.models.convnet`: each layer halves the image."""

    off = {"residual": False}  # noqa: RUF012

    residual: bool
    pool: Pool

    @model_validator(mode="after")
    def _something_to_skip(self) -> ConvNetConfig:
        if self.residual and self.convs_per_layer < 2:
            raise ValueError(
                f"model.convs_per_layer is {self.convs_per_layer}; it must be 2 or more where"
                " model.residual is true"
            )
        return self

    def smallest_side(self) -> int:
        """One pixel is left of it."""
        return int(2**self.layers)

    def check_size(self, size: Sequence[int]) -> None:
        """Each layer needs two pixels or more."""
        sizing.check_layers(self.layers, size)

    def normalizes_one_value(self, side: int) -> bool:
        """The norm behind a convolution of stride 2 may see single pixels."""
        last = sizing.side_after_layers(side, self.layers, self.pool)
        return self.norm == "batch" and self.pool == "stride" and last == 1

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Convolutions with biases, norms, skips, and a linear layer of all pixels left."""
        widths = sizing.channels(self.width, self.layers)
        convs = self.count_convs(shape[0], widths, bias=True)
        sides = [sizing.side_after_layers(side, self.layers, self.pool) for side in shape[1:]]
        features = widths[-1] * sides[0] * sides[1]
        return convs + self._count_projections(shape[0], widths) + (features + 1) * classes

    def _count_projections(self, inputs: int, widths: list[int]) -> int:
        """The parameters of the skips, which are 1×1 convolutions where channels or size change."""
        if not self.residual:
            return 0
        return sum(
            sizing.conv_parameters(*pair, 1, bias=False, norm=self.norm != "none")
            for pair in pairwise([inputs, *widths])
            if self.pool == "stride" or pair[0] != pair[1]
        )


@register("speedrun")
class SpeedrunConfig(PlainConvConfig):
    """`striate.models.speedrun`: whitening takes pixels off, then each layer halves the image."""

    off = {"whiten": 0}  # noqa: RUF012
    takes_any_size = True
    size_keys = "model.layers and model.whiten"

    whiten: Annotated[int, Field(ge=0, le=8)]

    def layer_names(self) -> list[str]:
        """The whitening layer comes first."""
        return (["whiten"] if self.whiten else []) + super().layer_names()

    def smallest_side(self) -> int:
        """One pixel is left of it."""
        return int(2**self.layers) + max(self.whiten - 1, 0)

    def check_size(self, size: Sequence[int]) -> None:
        """Each layer needs two pixels or more behind the whitening layer."""
        sizing.check_layers(self.layers, size, self.whiten)

    def normalizes_one_value(self, side: int) -> bool:
        """It normalises what it has pooled, so that the last layer may see single pixels."""
        last = sizing.side_after_whitening(side, self.whiten) >> self.layers
        return self.norm == "batch" and last == 1

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Whitening filters, convolutions without biases, norms, and a linear layer without one."""
        inputs, whitening = shape[0], 0
        if self.whiten:
            patch = inputs * self.whiten**2
            inputs, whitening = 2 * patch, 2 * patch**2
        widths = sizing.channels(self.width, self.layers)
        convs = self.count_convs(inputs, widths, bias=False)
        return whitening + convs + widths[-1] * classes


@register("mlp")
class MLPConfig(NetworkConfig):
    """`striate.models.mlp`: takes images of every size."""

    kind = "multilayer perceptron"
    drawn = "the first layer, an image for each hidden unit"

    norm: Norm
    activation: Activation
    dropout: Dropout

    @model_validator(mode="after")
    def _two_values_to_normalize(self) -> MLPConfig:
        check_norm(self.norm, self.width)
        return self

    def normalizes_one_value(self, side: int) -> bool:
        """A unit has one value an image."""
        return self.norm == "batch"

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Linear layers with biases, and norms."""
        widths = sizing.equal_widths(self.width, self.layers)
        hidden = sum(
            sizing.conv_parameters(*pair, 1, bias=True, norm=self.norm != "none")
            for pair in pairwise([prod(shape), *widths])
        )
        return hidden + (widths[-1] + 1) * classes


@register("lenet5")
class LeNet5Config(NetworkConfig):
    """`striate.models.lenet5`: reads no keys, and pads images of every size."""

    weight_keys = "the images"
    kind = CONVOLUTIONAL

    layers: ClassVar[int] = 4  # type: ignore[misc]  # a constant here, and no key
    width: ClassVar[list[int]] = [*sizing.LENET5_WIDTHS]  # type: ignore[misc]

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Convolutions and linear layers, all with biases."""
        c1, c3, c5, f6 = sizing.LENET5_WIDTHS
        convs = sum(
            sizing.conv_parameters(*pair, 5, bias=True, norm=False)
            for pair in pairwise([shape[0], c1, c3])
        )
        c5_inputs = prod(sizing.lenet5_sides(shape[1:])) * c3
        return convs + (c5_inputs + 1) * c5 + (c5 + 1) * f6 + (f6 + 1) * classes


@register("gabor")
class GaborConfig(ConvNetConfig):
    """`striate.models.gabor`: the filters in front keep the image's size."""

    weight_keys = "model.width, layers, kernel_size, convs_per_layer and orientations"

    orientations: Annotated[int, Field(ge=1, le=32)]

    @model_validator(mode="after")
    def _room_for_a_wave(self) -> GaborConfig:
        if self.kernel_size < 3:
            raise ValueError(
                f"model.kernel_size is {self.kernel_size}; it must be 3 or more where model.arch is"
                " gabor"
            )
        return self

    def layer_names(self) -> list[str]:
        """The fixed filters come first."""
        return ["gabor", *super().layer_names()]

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """The fixed filters, and the network of their outputs."""
        filters = shape[0] * self.orientations * sizing.GABOR_PHASES
        rest = super().count_parameters((filters, *shape[1:]), classes)
        return filters * self.kernel_size**2 + rest


class UniformConfig(NetworkConfig):
    """Networks whose `width` is one number: the channels of all layers follow from it."""

    dropout: Dropout

    @model_validator(mode="after")
    def _one_width_for_each_layer(self) -> UniformConfig:
        if isinstance(self.width, list):
            raise ValueError(
                f"model.width is {self.width}; it must be one number where model.arch is"
                f" {self.arch}"
            )
        return self

    @property
    def channels(self) -> int:
        """`width`, which is a number here."""
        return self.width if isinstance(self.width, int) else self.width[0]


@register("resnet")
class ResNetConfig(UniformConfig):
    """`striate.models.resnet`: the second and the third stage halve the image, rounding up."""

    off = {"skips": True}  # noqa: RUF012
    takes_any_size = True
    kind = CONVOLUTIONAL

    skips: bool

    def layer_names(self) -> list[str]:
        """The first convolution, and three stages of `layers` blocks each."""
        return ["stem", *(f"stage{number}" for number in range(1, sizing.STAGES + 1))]

    def normalizes_one_value(self, side: int) -> bool:
        """The norms of the last stage may see single pixels."""
        return sizing.side_after_layers(side, sizing.STAGES - 1, "stride") == 1

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """3×3 convolutions without biases, norms, and a linear layer of the last channels."""
        widths = sizing.channels(self.channels, sizing.STAGES)
        pairs = [
            (shape[0], self.channels),
            *sizing.conv_channels(self.channels, widths, 2 * self.layers),
        ]
        convs = [sizing.conv_parameters(*pair, 3, bias=False, norm=True) for pair in pairs]
        return sum(convs) + (widths[-1] + 1) * classes


@register("recurrent")
class RecurrentConfig(UniformConfig):
    """`striate.models.recurrent`: halves the image twice, however often it convolves."""

    size_keys = "the images"
    weight_keys = "model.width, layers and kernel_size"

    kernel_size: KernelSize
    norm: Norm
    activation: Activation

    @model_validator(mode="after")
    def _two_values_to_normalize(self) -> RecurrentConfig:
        check_norm(self.norm, self.width)
        return self

    def layer_names(self) -> list[str]:
        """What is applied again and again is one layer."""
        return ["stem", "recurrent", "place"]

    def smallest_side(self) -> int:
        """One pixel is left of it."""
        return 1 << sizing.HALVINGS

    def normalizes_one_value(self, side: int) -> bool:
        """The last norms may see single pixels."""
        return self.norm == "batch" and self.layers > 1 and side >> sizing.HALVINGS == 1

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Convolutions without biases, a norm for each time, weights of rows and of columns."""
        width = self.channels
        stem = shape[0] * width * self.kernel_size**2
        convolution = width * (self.kernel_size**2 + width)
        norms = 0 if self.norm == "none" else 2 * width * (1 + self.layers)
        place = width * sum(side >> sizing.HALVINGS for side in shape[1:])
        return stem + convolution + norms + place + (width + 1) * classes


class PatchConfig(UniformConfig):
    """Networks that cut the image into patches, and keep their number from layer to layer."""

    size_keys = "model.patch"

    patch: Patch

    def layer_names(self) -> list[str]:
        """The patches come first."""
        return ["stem", *super().layer_names()]

    def smallest_side(self) -> int:
        """One patch."""
        return self.patch

    def check_size(self, size: Sequence[int]) -> None:
        """Patches must tile the image."""
        sizing.check_patch(self.patch, size)


@register("convmixer")
class ConvMixerConfig(PatchConfig):
    """`striate.models.convmixer`: the stem divides height and width by `patch`."""

    takes_any_size = True
    weight_keys = "model.width, layers, kernel_size and patch"
    kind = CONVOLUTIONAL

    kernel_size: KernelSize

    def normalizes_one_value(self, side: int) -> bool:
        """All norms see single pixels of an image of one patch."""
        return side // self.patch == 1

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Convolutions with biases, one filter a channel or of one pixel, norms, a linear layer."""
        width = self.channels
        stem, pixels, channels = (
            sizing.conv_parameters(inputs, width, side, bias=True, norm=True)
            for inputs, side in ((shape[0], self.patch), (1, self.kernel_size), (width, 1))
        )
        return stem + self.layers * (pixels + channels) + (width + 1) * classes


@register("vit")
class VisionTransformerConfig(PatchConfig):
    """`striate.models.vit`: the stem divides height and width by `patch`."""

    weight_keys = "model.width, layers and patch"
    kind = "vision transformer"

    heads: Annotated[int, Field(ge=1, le=64)]

    @model_validator(mode="after")
    def _equal_heads(self) -> VisionTransformerConfig:
        if self.channels % self.heads:
            raise ValueError(
                f"model.heads is {self.heads}; it must divide model.width, which is {self.width}"
            )
        return self

    def layer_names(self) -> list[str]:
        """A norm of its own comes last."""
        return [*super().layer_names(), "norm"]

    def count_parameters(self, shape: Sequence[int], classes: int) -> int:
        """Patches and their positions, layers of attention and MLP, norms, a linear layer."""
        width, hidden = self.channels, sizing.MLP_RATIO * self.channels
        filters = sizing.conv_parameters(shape[0], width, self.patch, bias=True, norm=False)
        positions = width * (shape[1] // self.patch) * (shape[2] // self.patch)
        attention = (width + 1) * 4 * width  # query, key, value and output
        mlp = (width + 1) * hidden + (hidden + 1) * width
        blocks = self.layers * (attention + mlp + 4 * width)
        return filters + positions + blocks + 2 * width + (width + 1) * classes


class TimmConfig(NetworkConfig):
    """`striate.models.timm_network`: any network of timm, which alone knows its layers and sizes.

    What follows from those, such as the number of parameters, is checked as it is built.
    """

    off = {"pretrained": False}  # noqa: RUF012
    kind = "network of timm"

    layers: ClassVar[int] = 0  # type: ignore[misc]  # neither is a key, or known here
    width: ClassVar[int] = 0  # type: ignore[misc]
    dropout: Dropout
    pretrained: bool

    def layer_names(self) -> list[str]:
        """All of it but the linear layer at its end."""
        return ["trunk"]

    def normalizes_one_value(self, side: int) -> bool:
        """Most networks divide height and width by 32."""
        return side <= sizing.TIMM_STRIDE

    def check_fits(self, shape: Sequence[int], classes: int) -> None:
        """Refuse a network of timm where timm is not installed.

        Raises:
            UserError: names the extra.
        """
        if find_spec("timm") is None:
            raise UserError(
                f"model.arch is {self.arch}, which needs the extra timm: pip install '.[timm]'"
            )
