"""The vision part of Qwen's kind, for pictures that keep their shape: one graph for any number of patches.

transformers' own forward goes over pictures and windows in Python, which no tracer follows. Here where each patch is
follows from the shape by arithmetic, inside the graph. The pictures of a prompt have one shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear


class GridVision(nn.Module):
    """``pixel_values`` [n * patches, values], ``image_grid_thw`` [n, 3] → features [rows, width], one an image token.

    Where features go into further layers of the text as well, theirs are behind the first: [rows, (1 + added) * width].
    """

    def __init__(self, tower: Any) -> None:
        """Take transformers' network, of which the modules are used."""
        super().__init__()
        self.tower = tower
        self.merge = int(tower.spatial_merge_size)
        full = getattr(tower, "fullatt_block_indexes", None)
        self.windowed = [full is not None and index not in full for index in range(len(tower.blocks))]
        #: Image tokens a side that a window has.
        self.window = tower.window_size // self.merge // tower.patch_size if any(self.windowed) else 0

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        """Return one row an image token."""
        tower, pictures = self.tower, image_grid_thw.shape[0]
        height, width = image_grid_thw[0, 1], image_grid_thw[0, 2]
        # A convolution whose kernel is the patch: one product.
        kernel = tower.patch_embed.proj
        states = linear(pixel_values, kernel.weight.flatten(1), kernel.bias)
        states = states.reshape(pictures, -1, states.shape[-1])
        row, column = self._places(torch.arange(states.shape[1], device=states.device), width)
        if hasattr(tower, "pos_embed"):
            states = states + self._learned(row, column, height, width)
        angles = torch.cat([one[:, None] * tower.rotary_pos_emb.inv_freq for one in (row, column)], dim=-1)
        turn = (torch.cat([angles, angles], dim=-1).cos().to(states.dtype),
                torch.cat([angles, angles], dim=-1).sin().to(states.dtype))  # fmt: skip
        windows = _windows(height // self.merge, width // self.merge, self.window) if self.window else None
        added = []
        for index, block in enumerate(tower.blocks):
            inside = windows if self.windowed[index] else None
            states = states + self._attend(block.attn, block.norm1(states), turn, inside)
            states = states + block.mlp(block.norm2(states))
            if index in getattr(tower, "deepstack_visual_indexes", ()):
                merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)]
                added.append(merger(states.reshape(-1, states.shape[-1])))
        return torch.cat([tower.merger(states.reshape(-1, states.shape[-1])), *added], dim=-1)

    def _places(self, index: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Return row and column of each patch: those that become one token follow each other."""
        merge = self.merge
        block, inside, wide = _over(index, merge * merge), index % (merge * merge), _over(width, merge)
        return _over(block, wide) * merge + _over(inside, merge), block % wide * merge + inside % merge

    def _learned(self, row: Tensor, column: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Return positions [patches, width] that were learned for a square, between which others are."""
        table, side = self.tower.pos_embed.weight, int(self.tower.num_grid_per_side)
        y, x = (one * (side - 1) / (most - 1) for one, most in ((row, height), (column, width)))
        top, left = y.floor().long(), x.floor().long()
        bottom, right = (top + 1).clamp(max=side - 1), (left + 1).clamp(max=side - 1)
        down, across = (y - top)[:, None].to(table.dtype), (x - left)[:, None].to(table.dtype)
        above = embedding(top * side + left, table) * (1 - across) + embedding(top * side + right, table) * across
        below = embedding(bottom * side + left, table) * (1 - across) + embedding(bottom * side + right, table) * across
        return above * (1 - down) + below * down

    def _attend(self, module: Any, states: Tensor, turn: tuple[Tensor, Tensor], windows: _Windows | None) -> Tensor:
        """Return what patches [n, patches, width] see of each other: of their whole picture, or of their window."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        pictures, heads = states.shape[0], int(module.num_heads)
        size = int(module.qkv.out_features) // 3 // heads
        query, key, value = (
            one.reshape(pictures, -1, heads, size).transpose(1, 2) for one in module.qkv(states).chunk(3, dim=-1)
        )
        query, key = _turned(query, *turn), _turned(key, *turn)
        mask = None
        if windows is not None:
            query, key, value = (self._into(one, windows) for one in (query, key, value))
            mask = windows.mask(query, self.merge**2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, _eager)
        seen, _ = attend(module, query, key, value, mask, scaling=size**-0.5, dropout=0.0, is_causal=False)
        if windows is not None:
            group = self.merge**2 * heads * size
            seen = seen.reshape(pictures, -1, group).index_select(1, windows.slots)
        out: Tensor = module.proj(seen.reshape(pictures, -1, heads * size))
        return out

    def _into(self, states: Tensor, windows: _Windows) -> Tensor:
        """Return [n, H, patches, d] as [n * windows, H, patches of a window, d]."""
        pictures, (heads, size) = states.shape[0], (int(states.shape[1]), int(states.shape[3]))
        group, count = self.merge**2 * size, self.window**2
        states = states.reshape(pictures, heads, -1, group).index_select(2, windows.sources)
        states = states.reshape(pictures, heads, -1, count * self.merge**2, size).transpose(1, 2)
        return states.reshape(-1, heads, count * self.merge**2, size)


class _Windows(NamedTuple):
    """Where image tokens are in windows of one size, of which those at the edges have empty places."""

    #: Of each place the token that stands there, or the first.
    sources: Tensor
    #: Whether a token stands there, ``[windows, places]``.
    taken: Tensor
    #: Of each token its place.
    slots: Tensor

    def mask(self, query: Tensor, patches: int) -> Tensor:
        """Return what may be seen, additive ``[n * windows, 1, S, S]``."""
        taken = self.taken[:, :, None].expand(-1, -1, patches).reshape(1, self.taken.shape[0], 1, 1, -1)
        lost = torch.where(taken, 0.0, torch.finfo(torch.float32).min).to(query.dtype)
        length = query.shape[2]
        pictures = _over(torch.ops.aten._shape_as_tensor(query)[0], self.taken.shape[0])
        return lost.expand(pictures, -1, -1, length, -1).reshape(-1, 1, length, length)


def _windows(rows: Tensor, columns: Tensor, window: int) -> _Windows:
    """Return the windows of a picture of so many rows and columns of image tokens."""
    down, across = _over(rows + window - 1, window), _over(columns + window - 1, window)
    place = torch.arange(down * across * window * window, device=rows.device)
    which, inside = _over(place, window * window), place % (window * window)
    row = _over(which, across) * window + _over(inside, window)
    column = which % across * window + inside % window
    taken = (row < rows) & (column < columns)
    token = torch.arange(rows * columns, device=rows.device)
    y, x = _over(token, columns), token % columns
    slots = (_over(y, window) * across + _over(x, window)) * (window * window) + y % window * window + x % window
    return _Windows(
        torch.where(taken, row * columns + column, torch.zeros_like(row)), taken.reshape(-1, window * window), slots
    )


def _over(one: Any, other: Any) -> Tensor:
    """Return a quotient of whole numbers that are not negative."""
    return torch.div(one, other, rounding_mode="trunc")


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return [n, H, patches, d] turned by the angles of their patches."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def _eager(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None
