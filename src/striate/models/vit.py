"""The vision transformer: each patch of an image attends to all others."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from striate.models.layers import numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import MLP_RATIO, check_patch

EPSILON = 1e-6  # of the layer norms, as the authors' code has it


class Positions(nn.Module):
    """Adds a learnt vector to the patch at each position, the same for all images."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(shape))

    def forward(self, patches: Tensor) -> Tensor:
        """(N, width, H, W) → the same shape."""
        return patches + self.weight


class PatchNorm(nn.LayerNorm):
    """Normalises the channels of each patch."""

    def forward(self, patches: Tensor) -> Tensor:
        """(N, width, H, W) → the same shape."""
        return super().forward(patches.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: channels of input and output, a multiple of `heads`.
        heads: how many weighted means each patch takes of the others.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, patches, width) → the same shape."""
        query, key, value = self.split(tokens)
        means = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out(means.transpose(1, 2).flatten(2))
        return mixed

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(N, patches, width) → query, key and value, each (N, heads, patches, width / heads)."""
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        return tuple(part.transpose(1, 2) for part in parts.unbind(2))

    def weights(self, tokens: Tensor) -> Tensor:
        """How much each patch attends to each: (N, patches, width) → (N, heads, from, to)."""
        query, key, _ = self.split(tokens)
        scores: Tensor = query @ key.mT / query.shape[-1] ** 0.5
        return scores.softmax(-1)


class Block(nn.Module):
    """Attention, then two linear layers for each patch; around each leads a skip connection.

    Args:
        width: channels of input and output.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """(N, width, H, W) → the same shape."""
        tokens: Tensor = patches.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(patches.shape)

    def attention_map(self, patches: Tensor) -> Tensor:
        """How much all patches attend to each, mean over heads: (N, width, H, W) → (N, H, W)."""
        tokens = self.norm1(patches.flatten(2).transpose(1, 2))
        return self.attention.weights(tokens).mean((1, 2)).reshape(-1, *patches.shape[2:])


@register("vit")
class VisionTransformer(Network):
    """`stem` cuts patches, `layer1` … `layerN` let them attend to one another; `norm`, `head`.

    A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale", arXiv:2010.11929: norms before each part, learnt positions, an MLP of four times the
    width with GELU. The mean of all patches goes to the head rather than a class token (L. Beyer et
    al., "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580), so that the output of each
    layer is an image of patches. The patches must tile the image: `patch` divides height and width.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many layers of attention and MLP.
        width: channels of all layers, a multiple of `heads`.
        patch: side of a patch in pixels.
        heads: of each attention.
        dropout: probability that a feature is dropped before the linear layer.

    Raises:
        UserError: the patches do not tile an image of this shape.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int,
        patch: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        inputs, height, columns = shape
        check_patch(patch, (height, columns))
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, width, patch, stride=patch),
            Positions(width, height // patch, columns // patch),
        )
        for number in range(1, layers + 1):
            self.add_module(f"layer{number}", Block(width, heads))
        self.norm = PatchNorm(width, EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Begin as the authors' code: linear layers by X. Glorot and Y. Bengio, no biases."""
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear) and name != "head":
                for matrix in part.weight.chunk(3 if name.endswith("qkv") else 1):
                    nn.init.xavier_uniform_(matrix)
                nn.init.zeros_(part.bias)

    def layers(self) -> dict[str, nn.Module]:
        """`stem`, `layer1` … `layerN`, `norm`; the output of each is (N, width, H, W)."""
        return {"stem": self.stem} | numbered_layers(self) | {"norm": self.norm}

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """The patch filters and all matrices inside are filters; positions are biases."""
        return roles(self.layers().values(), self.head)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """How much all patches attend to each patch: layer name → (N, H / patch, W / patch)."""
        maps, features = {}, images
        for name, layer in self.layers().items():
            if isinstance(layer, Block):
                maps[name] = layer.attention_map(features)
            features = layer(features)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images).mean((2, 3))))
        return logits
