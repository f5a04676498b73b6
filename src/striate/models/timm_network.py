"""Any network of timm, which `model.arch=timm:NAME` names, and its published weights on disk.

R. Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models. The package
is an extra, and imported where it is needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from striate.data import files
from striate.data.json_csv import read_json
from striate.errors import UserError, is_out_of_memory, one_line
from striate.models.layers import roles
from striate.models.model_json import PRETRAINED, CheckpointError
from striate.models.registry import Network, count_parameters, register
from striate.models.sizing import MAX_PARAMETERS

PREFIX = "timm:"
MOMENTS = ("mean", "std")
WEIGHTS = "model.safetensors"  # in a folder of published weights, beside their description
HUB = "https://huggingface.co/"
PROBE_SECONDS = 5.0


class Scale(nn.Module):
    """`(image - mean) / std` of each channel, kept with the weights that expect it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Pixels from 0 to 1, float (N, C, H, W) → the same shape."""
        scaled: Tensor = (images - self.mean) / self.std
        return scaled


@register("timm")
class TimmNetwork(Network):
    """`trunk`, a network of timm up to its pooled features, and `head`, a linear layer.

    Networks of a fixed size are built for the images' size. The weights of a network from the hub
    load into `trunk.net`.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        arch: `timm:` and the name of a network, with the tag of its weights or without.
        dropout: probability that a feature is dropped before the linear layer.
        pretrained: whether `trunk` normalises pixels as the published weights expect. It does not
            load them: `pretrained_weights` reads them.

    Raises:
        UserError: timm has no such network, or it takes no images of this size, or is too large.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        arch: str,
        dropout: float,
        pretrained: bool,
    ) -> None:
        super().__init__()
        self.arch, self.shape, self.pretrained = arch, shape, pretrained
        net = create(arch, shape)
        scale: nn.Module = nn.Identity()
        if pretrained:
            scale = Scale(*(of_channels(net.pretrained_cfg[key], shape[0]) for key in MOMENTS))
        self.trunk = nn.Sequential(OrderedDict(scale=scale, net=net))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(count_features(net, arch, shape), classes)
        if (found := count_parameters(self)) > MAX_PARAMETERS:
            raise UserError(
                f"model.arch is {arch}, which has {found:,} parameters; the largest possible number"
                f" is {MAX_PARAMETERS:,}"
            )

    def layers(self) -> dict[str, nn.Module]:
        """`trunk`, whose output is (N, features)."""
        return {"trunk": self.trunk}

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions and linear layers inside are filters."""
        return roles(self.layers().values(), self.head)

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The output of each stage that timm knows of, `stage1` …; each is (N, C, H, W)."""
        scale, net = cast("tuple[nn.Module, Any]", self.trunk)
        try:
            maps = net.forward_intermediates(
                scale(images), output_fmt="NCHW", intermediates_only=True
            )
        except (AttributeError, AssertionError, NotImplementedError):  # not all can say
            return super().feature_maps(images)
        return {f"stage{number}": value for number, value in enumerate(maps, start=1)}

    def synchronize_norms_(self) -> None:
        """Keep the activation that is part of timm's norms."""
        from timm.layers import convert_sync_batchnorm

        convert_sync_batchnorm(self)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images)))
        return logits


def of_channels(values: tuple[float, ...], channels: int) -> list[float]:
    """A mean or deviation of published images, for images of another number of channels.

    As timm spreads the filters of the first convolution: gray gets the mean, others repeat.
    """
    if channels == 1:
        return [sum(values) / len(values)]
    return [values[channel % len(values)] for channel in range(channels)]


def config(arch: str) -> Any:
    """What timm knows of a network's published weights.

    Raises:
        UserError: timm is not installed, or has no network or no weights of this name.
    """
    try:
        import timm
        from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg
    except ImportError as error:
        raise UserError(f"{arch} needs the extra timm: pip install '.[timm]' ({error})") from None
    name = arch.removeprefix(PREFIX)
    own = name.partition(".")[0]
    if not timm.is_model(name):
        like = [f"{PREFIX}{one}" for one in get_close_matches(own, timm.list_models(), n=3)]
        hint = f"; similar names: {', '.join(like)}" if like else ""
        raise UserError(f"timm {timm.__version__} has no network {arch}{hint}")
    try:
        return get_pretrained_cfg(name)
    except RuntimeError:
        known = ", ".join(f"{PREFIX}{one}" for one in get_arch_pretrained_cfgs(own))
        raise UserError(
            f"model.arch is {arch}, whose tag timm does not know; it has {known}"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what timm and PyTorch say of networks that are built for unusual sizes."""
    logging.getLogger("timm").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def create(arch: str, shape: tuple[int, int, int], **options: Any) -> Any:
    """Build a network of timm for images of this shape, up to its pooled features.

    Args:
        arch: as in `TimmNetwork`.
        shape: channels, height and width of an image.
        options: further arguments of `timm.create_model`.

    Raises:
        UserError: there is no such network, or it takes no images of this size.
    """
    found = config(arch)
    import timm

    # Others take images of any size, and no such argument.
    size = {"img_size": tuple(shape[1:])} if found is not None and found.fixed_input_size else {}
    with refused(arch, shape, found), quiet():
        net = timm.create_model(
            arch.removeprefix(PREFIX), in_chans=shape[0], num_classes=0, **size, **options
        )
        patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
        sides = patch if isinstance(patch, tuple) else (patch, patch)
        if any(side and length % side for length, side in zip(shape[1:], sides, strict=True)):
            raise ValueError(f"its patches are {sides[0]}×{sides[1]}")  # it would cut the rest off
    take_strides_(net)
    return net


def take_strides_(net: nn.Module) -> None:
    """Take the strides of filters of one pixel before the convolution; outputs stay the same.

    See `striate.models.convnet.conv` for the fault of PyTorch that this avoids.
    """
    for part in net.modules():
        if (
            isinstance(part, nn.Conv2d)
            and part.kernel_size == (1, 1)
            and part.stride != (1, 1)
            and part.padding == (0, 0)
        ):
            part.register_forward_pre_hook(partial(_every, part.stride))
            part.stride = (1, 1)


@contextmanager
def dropped_strides(net: nn.Module) -> Iterator[None]:
    """Drop the strides of padded filters that see a single pixel inside; outputs stay the same.

    PyTorch 2.15 leaves gradients of such filters unset, in bfloat16 on a CPU.
    """
    hooks = [
        part.register_forward_pre_hook(_drop)
        for part in net.modules()
        if isinstance(part, nn.Conv2d) and part.stride != (1, 1) and _keeps_size(part)
    ]
    yield
    for hook in hooks:
        hook.remove()


def _keeps_size(part: nn.Conv2d) -> bool:
    """Whether the padding is so wide that without a stride there are as many pixels as before."""
    if isinstance(part.padding, str):
        return False
    sides = zip(part.padding, part.dilation, part.kernel_size, strict=True)
    return all(2 * padding == dilation * (kernel - 1) for padding, dilation, kernel in sides)


def _drop(part: nn.Conv2d, inputs: tuple[Tensor]) -> None:
    if inputs[0].shape[-2:] == (1, 1):
        part.stride = (1, 1)


def _every(stride: tuple[int, ...], _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0][..., :: stride[0], :: stride[1]]


@torch.no_grad()
def count_features(net: Any, arch: str, shape: tuple[int, int, int]) -> int:
    """How many features a network gives for an image; refuses images as `create` does.

    Strides that such images make idle are dropped.
    """
    with refused(arch, shape, config(arch)), quiet(), dropped_strides(net):
        features: Tensor = net.eval()(torch.zeros(2, *shape))
    net.train()
    if features.dim() != 2:
        raise UserError(f"model.arch is {arch}, whose features are not one vector an image")
    return features.shape[1]


@contextmanager
def refused(arch: str, shape: tuple[int, int, int], found: Any) -> Iterator[None]:
    """Say in a line that a network cannot be built or run for images of a shape."""
    try:
        yield
    except Exception as error:  # each network has its own way to fail
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        own = f", such as {found.input_size[1]}" if found is not None and found.input_size else ""
        raise UserError(
            f"model.arch is {arch}, which takes no images of {shape[1]}×{shape[2]} pixels"
            f" ({one_line(error)}); data.size resizes those of a folder to a side that it takes"
            f"{own}"
        ) from None


def pretrained_weights(model: Network, folder: Path) -> dict[str, Tensor]:
    """Read published weights, adapted to a network: what `training.transfer.transfer_` takes.

    timm adapts the first convolution to the number of channels and positions to the size of the
    images. The classifier is left out unless it has as many classes.

    Args:
        model: of timm.
        folder: that `keep` wrote.

    Raises:
        UserError: the folder is damaged, or of another network.
    """
    note, content = _read_kept(folder)
    if not isinstance(model, TimmNetwork) or not model.pretrained:
        raise UserError(
            f"training.init_from is {folder}, which holds published weights of {note.get('arch')};"
            " they need model.pretrained=true, and that network as model.arch"
        )
    if note.get("arch", "").partition(".")[0] != model.arch.partition(".")[0]:
        raise UserError(
            f"training.init_from is {folder}, which holds the weights of {note.get('arch')}, and"
            f" model.arch is {model.arch}; `striate fetch {model.arch}` brings its own"
        )
    from safetensors.torch import load

    published = load(content)
    overlay = {"state_dict": dict(published)}
    net = create(model.arch, model.shape, pretrained=True, pretrained_cfg_overlay=overlay)
    weights = {f"trunk.net.{name}": value for name, value in net.state_dict().items()}
    weights |= {key: value for key, value in model.state_dict().items() if "trunk.scale" in key}
    for part in ("weight", "bias"):
        name = f"{net.pretrained_cfg.get('classifier')}.{part}"
        if name in published:
            weights[f"head.{part}"] = published[name]
    return weights


def keep(arch: str, target: Path, file: Path | None) -> None:
    """Write the published weights of a network to a folder, from the Hugging Face Hub or a file.

    The folder gets `model.safetensors`, timm's own state dict, and `pretrained.json`, which names
    the network, the number of classes, where the weights come from, their licence, and their
    SHA-256. Weights of a file have the tag and its licence only where `arch` names the tag.

    Args:
        arch: `timm:` and the name of a network, with a tag or without.
        target: a new folder, or one that this wrote before. Weights that were downloaded stay.
        file: a state dict in timm's format, .safetensors or .pth; None downloads.

    Raises:
        UserError: there is no such network, or its weights cannot be had.
    """
    if target.exists() and not (
        target.is_dir() and {path.name for path in target.iterdir()} <= {WEIGHTS, PRETRAINED}
    ):
        raise UserError(f"{target} is not a folder with only weights; choose another: --to")
    found = config(arch)
    if found is None:
        raise UserError(f"timm has no published weights of {arch}")
    if file is None:
        known = f"{PREFIX}{found.architecture}{'.' if found.tag else ''}{found.tag or ''}"
        source = f"{HUB}{found.hf_hub_id}" if found.hf_hub_id else f"{found.url}"
        if is_kept(known, source, target):
            return
    else:
        known, source = arch, file.name
    net = _downloaded(arch) if file is None else _read(arch, file)
    from safetensors.torch import save

    weights = {name: value.detach().contiguous() for name, value in net.state_dict().items()}
    content = save(weights)
    note = {
        "arch": known,
        "classes": net.num_classes,
        "source": source,
        "license": found.license if file is None or "." in arch else None,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    files.write(target / WEIGHTS, content)
    files.write(target / PRETRAINED, (json.dumps(note, indent=2) + "\n").encode())


def is_kept(arch: str, source: str, folder: Path) -> bool:
    """Whether a folder holds the weights of a network from a source, undamaged."""
    if not (folder / PRETRAINED).is_file():
        return False
    try:
        note, _ = _read_kept(folder)
    except (UserError, OSError):
        return False
    return (note.get("arch"), note.get("source")) == (arch, source)


def _read_kept(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The description in a folder that `keep` wrote, and the bytes of its weights.

    Raises:
        CheckpointError: they do not belong together.
    """
    note, content = read_json(folder / PRETRAINED), (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != note.get("sha256"):
        source = str(note.get("source"))
        file = "" if source.startswith("https://") else f" --from {source}"
        raise CheckpointError(
            f"{folder / WEIGHTS} is not the file that {folder / PRETRAINED} names;"
            f" `striate fetch {note.get('arch')} --to {folder}{file}` brings it again"
        )
    return note, content


def _downloaded(arch: str) -> Any:
    import timm
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, get_session

    if not constants.HF_HUB_OFFLINE:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except Exception:
            # Look into the hub's cache only: it would try each of several names for long.
            constants.HF_HUB_OFFLINE = True
    disable_progress_bars()
    try:
        with quiet():
            return timm.create_model(arch.removeprefix(PREFIX), pretrained=True)
    except Exception as error:  # of the hub, its client, the system or timm
        if is_out_of_memory(error):
            raise
        offline = "the Hugging Face Hub cannot be reached"
        raise UserError(
            f"the weights of {arch} could not be fetched:"
            f" {offline if constants.HF_HUB_OFFLINE else one_line(error)}; go online, or name a"
            f" file of them: striate fetch {arch} --from FILE"
        ) from None


def _read(arch: str, file: Path) -> Any:
    import timm
    from timm.models import load_state_dict

    if not file.is_file():
        raise UserError(f"--from is {file}, which is not a file")
    try:
        with quiet():
            weights = load_state_dict(str(file), device="cpu", weights_only=True)
            classifier = weights.get(f"{config(arch).classifier}.weight")
            classes = {} if classifier is None else {"num_classes": len(classifier)}
            return timm.create_model(
                arch.removeprefix(PREFIX), pretrained=True, **classes,
                pretrained_cfg_overlay={"state_dict": weights, **classes},
            )  # fmt: skip
    except Exception as error:  # readers raise almost anything for a file that is damaged
        if is_out_of_memory(error):
            raise
        raise UserError(f"{file} cannot be read as weights of {arch}: {one_line(error)}") from None
