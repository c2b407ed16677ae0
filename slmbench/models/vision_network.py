"""The catalog's networks that read pictures: a CLIP vision transformer, a resampler, and a text network behind them.

After arXiv 2501.16273, which puts the features of a vision encoder in front of the text encoder's input (its abstract
was read; sizes and resampler are ours). The resampler is Flamingo's (arXiv 2204.14198): learned queries attend to the
features and to each other. Imported where torch is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class ResamplerLayer(nn.Module):
    """Queries attend to features and queries; then a feed-forward. Normalised before each."""

    is_causal = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.config, self.heads, self.head_dim = config, config.num_attention_heads, width // config.num_attention_heads
        self.query_norm, self.context_norm, self.ffn_norm = (nn.LayerNorm(width) for _ in range(3))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Return the queries ``[n, Q, width]`` after attending to ``features`` ``[n, P, width]``."""
        asked = self.query_norm(queries)
        seen = torch.cat([self.context_norm(features), asked], dim=1)
        query, key, value = (
            states.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
            for states in (self.q_proj(asked), self.k_proj(seen), self.v_proj(seen))
        )
        queries = queries + self.o_proj(self._attend(query, key, value).flatten(2))
        return queries + self.down_proj(gelu(self.up_proj(self.ffn_norm(queries))))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        attend = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation)
        if attend is None:
            return scaled_dot_product_attention(query, key, value).transpose(1, 2)
        out: Tensor = attend(self, query, key, value, None, scaling=self.head_dim**-0.5)[0]
        return out


class PictureReader(nn.Module):
    """Pixels ``[n, 3, H, W]`` → features ``[n · queries, text width]``."""

    def __init__(self, whole: Mapping[str, Any], text_width: int, attention: str | None) -> None:
        """Build it from a catalog entry's ``whole`` config."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        config = CLIPVisionConfig(**{k: v for k, v in whole["vision_config"].items() if k != "model_type"})
        config._attn_implementation = attention or "sdpa"
        self.config = config
        self.vision_model = CLIPVisionModel(config)
        self.queries = nn.Parameter(torch.empty(whole["resampler_queries"], config.hidden_size))
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(whole["resampler_layers"]))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.projector = nn.Linear(config.hidden_size, text_width)
        #: What a text network multiplies its input by, features are divided by.
        self.scale = text_width**-0.5 if whole["text_scales_input"] else 1.0

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return one row a query and picture."""
        features = self.vision_model(pixel_values=pixel_values).last_hidden_state[:, 1:]
        # Not expanded: torch's ONNX exporter takes the number of pictures for a constant then.
        queries = self.queries + features[:, :1] * 0
        for layer in self.layers:
            queries = layer(queries, features)
        rows: Tensor = self.projector(self.norm(queries)).flatten(0, 1)
        return rows * self.scale


class PicturesInFront(nn.Module):
    """A picture reader and a text network as one: ``forward`` as that of transformers' networks for pictures."""

    def __init__(self, vision: PictureReader, text: Any, image_token_id: int) -> None:
        super().__init__()
        self.vision, self.text, self.image_token_id = vision, text, image_token_id
        self.config = text.config

    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **more: Any) -> Any:
        """Return what the text network makes of ids ``[B, S]`` with features at the image tokens' places."""
        if input_ids is None:
            return self.text(**more)
        if pixel_values is None:
            return self.text(input_ids=input_ids, **more)
        words = self.text.get_input_embeddings()(input_ids)
        places = (input_ids == self.image_token_id).unsqueeze(-1).expand_as(words)
        return self.text(inputs_embeds=words.masked_scatter(places, self.vision(pixel_values)), **more)
