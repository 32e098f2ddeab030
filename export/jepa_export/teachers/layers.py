"""Building blocks of all teachers: pre-norm transformer parts in operators that every target supports.

Patches are embedded by a matrix product (some targets fail on the convolution of the published code, which
computes the same sum), and positions are constant tables (:mod:`rope`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import merge_heads, split_heads
from jepa_export.teachers.rope import Rotation

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a transformer.

    Attributes:
        hidden: Width inside its MLPs.
        qkv_bias: Queries, keys and values have a bias.
        gated: The MLPs are gated (SwiGLU).

    Raises:
        JepaExportError: The width is not divisible by the heads, or the size of a head is odd.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    qkv_bias: bool = True
    gated: bool = False

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise JepaExportError(
                f"width: must be a multiple of 2 x heads ({2 * self.heads}), got {self.width}",
                code="teacher.sizes",
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Attention(nn.Module):
    """Self-attention over [batch, n, width]; ``mask`` is added to the scores."""

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def heads_of(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each [batch, heads, n, head_dim]."""
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(tokens).chunk(3, dim=-1))
        return query, key, value

    def forward(self, tokens: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        query, key, value = self.heads_of(tokens)
        if rotation is not None:
            query, key = rotation.apply(query), rotation.apply(key)
        out: Tensor = self.proj(merge_heads(scaled_dot_product_attention(query, key, value, attn_mask=mask)))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class GatedMLP(nn.Module):
    """Two parallel linear layers, one of which gates the other (SwiGLU, Shazeer 2020), and a third."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(width, hidden)
        self.fc3 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc3(silu(self.fc1(tokens)) * self.fc2(tokens))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: [batch, n, width] -> the same shape."""

    def __init__(self, sizes: Sizes, eps: float = EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps)
        self.attn = Attention(sizes.width, sizes.heads, bias=sizes.qkv_bias)
        self.norm2 = nn.LayerNorm(sizes.width, eps)
        self.mlp = (GatedMLP if sizes.gated else MLP)(sizes.width, sizes.hidden)

    def forward(self, tokens: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), rotation, mask)
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


def blocks(sizes: Sizes, eps: float = EPS) -> nn.ModuleList:
    """Return ``sizes.depth`` transformer blocks."""
    return nn.ModuleList(Block(sizes, eps) for _ in range(sizes.depth))


class PatchEmbedding(nn.Module):
    """Patch embedding: [N, channels, height, width of the image] -> [N, patches, width], row by row.

    Args:
        channels: Channels of an image.
        px: Side of a square image, or its height and width.
        patch: Side of a patch.
        width: Width of a token.
    """

    def __init__(self, channels: int, px: int | tuple[int, int], patch: int, width: int) -> None:
        super().__init__()
        size = (px, px) if isinstance(px, int) else px
        if any(side < 1 or side % patch for side in size):
            raise JepaExportError(
                f"px: must be a multiple of the patch size ({patch}), got {px}", code="teacher.sizes"
            )
        self.rows, self.columns = (side // patch for side in size)
        self.channels, self.patch = channels, patch
        self.proj = nn.Linear(channels * patch**2, width)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.reshape(-1, self.rows, self.patch, self.columns, self.patch).transpose(2, 3)
        patches = rows.reshape(-1, self.channels, self.rows * self.columns, self.patch**2).transpose(1, 2)
        out: Tensor = self.proj(patches.flatten(2))
        return out


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Select the tokens ``ids`` ([m], the same for each sample, or [batch, m]) from [batch, n, dim]."""
    if ids.ndim == 1:
        return tokens.index_select(1, ids)
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def check_shape(what: str, tensor: Tensor, *shape: int | str) -> None:
    """Check that ``tensor`` has this shape; a name in ``shape`` stands for any size.

    Raises:
        JepaExportError: It does not.
    """
    fits = len(shape) == tensor.ndim and all(
        isinstance(size, str) or size == int(given) for size, given in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise JepaExportError(
            f"{what}: must be [{', '.join(map(str, shape))}], got {[int(size) for size in tensor.shape]}",
            code="teacher.shape",
        )
