"""What is known of a checkpoint's vision part, from its config alone. One reader for every type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmbench.errors import BadInputError
from slmbench.models.davit_sizes import davit_macs, davit_side, davit_weights, is_davit
from slmbench.models.picture_words import PictureWords

#: Bounds that no vision part reaches; a number beyond them is a damaged or hostile config.
_Size = Annotated[int, Field(gt=0, le=2**24)]


class VisionFacts(BaseModel):
    """The sizes of the network that reads pictures, and where its features go in the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: transformers' model_type of the whole model: "llava". Empty in the catalog, and in records of older versions.
    model_type: str = Field(default="", max_length=100)
    #: Stands in the prompt for each row of features.
    image_token_id: int = Field(ge=0)
    #: Pixels a side that the vision network reads (one tile).
    image_size: _Size
    patch_size: _Size
    layers: Annotated[int, Field(gt=0, le=4096)]
    width: _Size
    ffn_width: _Size
    heads: _Size
    #: Image tokens of one tile, after projector or resampler.
    tokens_per_tile: _Size
    #: Positions of the vision network in addition to the patches: CLIP's class token.
    class_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    #: Multiply-adds of projector or resampler for one tile, and their weights.
    projector_macs: Annotated[int, Field(ge=0, le=2**60)] = 0
    projector_weights: Annotated[int, Field(ge=0, le=2**50)] = 0
    #: Where pictures keep their shape: patches a side that become one image token. 0: all tiles are one square.
    merge_size: Annotated[int, Field(ge=0, le=64)] = 0
    #: Rows and columns of patches of the picture that the counts here are for; None: those of a square tile.
    grid: tuple[_Size, _Size] | None = None
    #: Pictures that keep their shape are made smaller and larger than these pixels.
    least_pixels: _Size = 1
    most_pixels: _Size = 2**24
    #: Times that a still picture is read as if it were a frame of a film.
    frames: Annotated[int, Field(gt=0, le=64)] = 1
    #: Matrices of a feed-forward block: 3 where it is gated.
    ffn_matrices: Annotated[int, Field(ge=2, le=3)] = 2
    #: Layers in which a patch sees its window alone, and how many patches a side that has.
    windowed_layers: Annotated[int, Field(ge=0, le=4096)] = 0
    window: Annotated[int, Field(ge=0, le=2**24)] = 0
    #: Layers of the text part, after the embedding, that features are added behind: each takes a row of its own.
    added_layers: Annotated[int, Field(ge=0, le=64)] = 0
    #: All weights of the vision part, where they do not follow from the sizes of a ViT.
    all_weights: Annotated[int | None, Field(gt=0, le=2**50)] = None
    #: Multiply-adds of the vision network for one tile, where they do not follow from them; without the projector.
    all_macs: Annotated[int | None, Field(gt=0, le=2**60)] = None
    #: What the checkpoint's own processor puts around image tokens; None: nothing, or nothing is known of it.
    words: PictureWords | None = None
    #: Why FLOPs and bytes of the vision part do not follow from these sizes; None where they do.
    cost_unknown: str | None = None
    #: Why pictures do not go in here (one line), or None.
    refusal: str | None = None

    @property
    def patches(self) -> int:
        """Return how many patches a tile has."""
        rows, columns = self.grid or (self.image_size // self.patch_size,) * 2
        return rows * columns

    @property
    def prompt_tokens_per_tile(self) -> int:
        """Return how many tokens of the prompt a tile becomes, words around it counted as two."""
        return self.tokens_per_tile + (2 if self.words else 0)

    def prompt_of(self, pixels: Mapping[str, Any]) -> list[int]:
        """Return the tokens that stand in a prompt for these pictures, by their pixel tensors.

        Raises:
            BadInputError: a picture was cut into more tiles than the checkpoint has words for.
        """
        if self.words is None:
            return [self.image_token_id] * self.image_tokens(pixels)
        if self.merge_size:
            counts = [int(one) // self.merge_size**2 for one in pixels[GRIDS].prod(-1)]
            return [token for count in counts for token in self.words.around([self.image_token_id] * count, 0, 0)]
        cuts = zip(pixels["rows"].reshape(-1).tolist(), pixels["cols"].reshape(-1).tolist(), strict=True)
        image = [self.image_token_id] * self.tokens_per_tile
        return [token for rows, columns in cuts for token in self.words.around(image, rows, columns)]

    def for_picture(self, size: tuple[int, int] | None) -> VisionFacts:
        """Return the facts for pictures of that width and height, where they keep their shape; else these."""
        if not self.merge_size or size is None or self.refusal is not None:
            return self
        rows, columns = self._grid_of(*size)
        tokens = rows * columns // self.merge_size**2
        macs = self.projector_macs // self.tokens_per_tile * tokens
        return self.model_copy(update={"grid": (rows, columns), "tokens_per_tile": tokens, "projector_macs": macs})

    def _grid_of(self, width: int, height: int) -> tuple[int, int]:
        """Return rows and columns of patches of a picture, as the checkpoint's processor resizes it."""
        step = self.patch_size * self.merge_size
        sides = [max(step, round(side / step) * step) for side in (height, width)]
        if math.prod(sides) > self.most_pixels:
            factor = math.sqrt(height * width / self.most_pixels)
            sides = [max(step, math.floor(side / factor / step) * step) for side in (height, width)]
        elif math.prod(sides) < self.least_pixels:
            factor = math.sqrt(self.least_pixels / (height * width))
            sides = [math.ceil(side * factor / step) * step for side in (height, width)]
        return sides[0] // self.patch_size, sides[1] // self.patch_size

    def image_tokens(self, pixels: Mapping[str, Any]) -> int:
        """Return how many image tokens pictures become, by their pixel tensors."""
        grids = pixels.get(GRIDS)
        if grids is None or not self.merge_size:
            return len(pixels["pixel_values"]) * self.tokens_per_tile
        return int(grids.prod(-1).sum()) // self.merge_size**2


Config = Mapping[str, Any]
#: What processors call the shapes of pictures that keep them: frames, rows and columns of patches of each.
GRIDS = "image_grid_thw"
#: transformers' types whose pictures keep their shape, and whose image tokens have a row and a column in the text.
_OF_ANY_SHAPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
#: A picture of so many pixels a side is counted where nothing says how large it is.
_COUNTED_PIXELS = 512

_IMAGE_TOKEN = ("image_token_id", "image_token_index")
_WIDTH = ("hidden_size", "embed_dim", "width")
_LAYERS = ("num_hidden_layers", "depth", "num_layers", "depths")
_HEADS = ("num_attention_heads", "num_heads")
_FFN = ("intermediate_size", "ffn_dim")


def read_vision(whole: Config, text_width: int, where: str, processor: Config | None = None) -> VisionFacts | None:
    """Return what a complete config says of the part that reads pictures, or None where there is none.

    ``text_width`` is that of the rows that the text network takes, ``processor`` the settings of the checkpoint's
    processor of pictures, which count where the config says nothing of a size.

    Raises:
        BadInputError: an absurd size.
    """
    vision = _vision_section(whole)
    if vision is None:
        return None
    try:
        if whole.get("model_type") in _OF_ANY_SHAPE:
            return _of_any_shape(whole, vision, processor or {})
        return _of_tiles(whole, vision, text_width, tile_size(processor or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{where}, vision part: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _of_tiles(whole: Config, vision: Config, text_width: int, tile: int | None) -> VisionFacts:
    """Read a part whose pictures become square tiles; ``tile`` is how many pixels a side its processor makes."""
    token = _first({**_encoder(whole), **whole}, *_IMAGE_TOKEN)
    patch = _whole_number(_first(vision, "patch_size"))
    image = _whole_number(_first(vision, "image_size"))
    width, layers = _whole_number(_first(vision, *_WIDTH)), _first(vision, *_LAYERS)
    stages = isinstance(layers, list | tuple)
    count = sum(layers) if isinstance(layers, list | tuple) else _whole_number(layers)
    used = _whole_number_or_negative(whole.get("vision_feature_layer"))
    if used is not None and count is not None:
        # LLaVA takes what a layer before the last one makes; 0 is what goes into the first.
        count = used if used >= 0 else count + 1 + used
    refusal = _refusal(whole, vision)
    image = image or tile
    if None in (token, patch, image, width, count) and refusal is None:
        refusal = "its config.json does not say how large the tiles are that its vision part reads, or by what tokens"
    made: dict[str, Any] = {
        "model_type": str(whole.get("model_type") or "")[:100],
        "image_token_id": token if type(token) is int and token >= 0 else 0,
        "image_size": image or 1,
        "patch_size": patch or 1,
        "layers": count or 1,
        "width": width or 1,
        "ffn_width": _whole_number(_first(vision, *_FFN)) or 4 * (width or 1),
        "heads": _whole_number(_first(vision, *_HEADS)) or 1,
        "class_tokens": int("clip" in str(vision.get("model_type"))),
        "cost_unknown": "its vision part has stages of several widths" if stages else None,
    }
    if stages and image and is_davit(vision):
        costs = {"all_macs": davit_macs(vision, image), "all_weights": davit_weights(vision)}
        made |= costs | {"cost_unknown": None}
    projector = None if refusal else _projector(whole, vision, made, text_width)
    if projector is None and refusal is None:
        refusal = "how many image tokens a picture takes does not follow from its config.json"
    return VisionFacts.model_validate(made | (projector or {"tokens_per_tile": 1}) | {"refusal": refusal})


def _of_any_shape(whole: Config, vision: Config, processor: Config) -> VisionFacts:
    """Read a part of Qwen's kind, whose pictures keep their shape (arXiv 2409.12191, 2502.13923, 2511.21631)."""
    sizes = {name: _whole_number(vision.get(name)) or 1 for name in
             ("depth", "num_heads", "patch_size", "spatial_merge_size", "temporal_patch_size")}  # fmt: skip
    # Of the first of these types hidden_size is what goes into the text.
    width = _whole_number(_first(vision, "embed_dim", "hidden_size")) or 1
    outputs = _whole_number(_first(vision, "out_hidden_size", "hidden_size")) or 1
    inner = _whole_number(vision.get("intermediate_size")) or (_whole_number(vision.get("mlp_ratio")) or 4) * width
    full = vision.get("fullatt_block_indexes")
    windowed = sizes["depth"] - len(full) if isinstance(full, list | tuple) else 0
    added, merged = len(vision.get("deepstack_visual_indexes") or ()), width * sizes["spatial_merge_size"] ** 2
    pixels = 3 * sizes["temporal_patch_size"] * sizes["patch_size"] ** 2
    positions = _whole_number(vision.get("num_position_embeddings"))
    # RMS norms have no bias; patches have one where they have learned positions.
    norm, gated = (1, True) if full is not None else (2, False)
    layer = 4 * width * (width + 1) + 2 * norm * width + (3 if gated else 2) * width * inner
    layer += (2 if gated else 1) * inner + width
    merger = merged * (merged + 1) + (merged + 1) * outputs
    weights = width * (pixels + (1 + positions if positions else 0)) + sizes["depth"] * layer
    weights += merger + norm * width + added * (merger + 2 * merged)
    step = sizes["patch_size"] * sizes["spatial_merge_size"]
    limits = _pixel_limits(processor)
    start, end = whole.get("vision_start_token_id"), whole.get("vision_end_token_id")
    words = None if start is None or end is None else PictureWords(before=(start,), after=(end,))
    return VisionFacts(
        model_type=str(whole.get("model_type"))[:100],
        image_token_id=_whole_number(whole.get("image_token_id")) or 0,
        image_size=max(1, round(_COUNTED_PIXELS / step)) * step,
        patch_size=sizes["patch_size"],
        layers=sizes["depth"],
        width=width,
        ffn_width=inner,
        heads=sizes["num_heads"],
        tokens_per_tile=max(1, round(_COUNTED_PIXELS / step)) ** 2,
        projector_macs=max(1, round(_COUNTED_PIXELS / step)) ** 2 * (1 + added) * merged * (merged + outputs),
        merge_size=sizes["spatial_merge_size"],
        least_pixels=limits[0] or 1,
        most_pixels=limits[1] or 2**24,
        frames=sizes["temporal_patch_size"],
        ffn_matrices=3 if gated else 2,
        windowed_layers=max(0, windowed),
        window=(_whole_number(vision.get("window_size")) or 0) // sizes["patch_size"] if windowed else 0,
        added_layers=added,
        all_weights=weights,
        words=words,
        refusal=None if processor else "no preprocessor_config.json says how its pictures become patches",
    )


def _pixel_limits(processor: Config) -> tuple[int | None, int | None]:
    """Return how few and how many pixels a processor of Qwen's kind leaves a picture; by default its own."""
    size = processor.get("size")
    size = size if isinstance(size, Mapping) else {}
    least = _first(processor, "min_pixels") or size.get("shortest_edge") or 56 * 56
    most = _first(processor, "max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
    return _whole_number(least), _whole_number(most)


def tile_size(processor: Config) -> int | None:
    """Return how many pixels a side the pictures have that a processor of these settings makes, if it says so."""
    sizes = [processor.get(name) for name in ("crop_size", "size")]
    found = [one for one in sizes if isinstance(one, Mapping) and one.get("height") == one.get("width")]
    return _whole_number(found[0].get("height")) if found else None


def shorter_edge_and_crop(processor: Config) -> bool:
    """Return whether a processor of these settings resizes the shorter edge and cuts the middle out, as CLIP's does."""
    size, crop = processor.get("size"), processor.get("crop_size")
    return isinstance(size, Mapping) and "shortest_edge" in size and isinstance(crop, Mapping | int)


def _vision_section(whole: Config) -> Config | None:
    found = whole.get("vision_config") or _encoder(whole).get("vision_config")
    return found if isinstance(found, Mapping) else None


def _encoder(whole: Config) -> Config:
    found = whole.get("encoder")
    return found if isinstance(found, Mapping) else {}


def _first(values: Config, *names: str) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _whole_number(value: Any) -> int | None:
    """Return a size; of several (width and height, or of stages) the largest."""
    if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
        value = max(value)
    return value if type(value) is int and value > 0 else None


def _whole_number_or_negative(value: Any) -> int | None:
    """Return the number of a layer; of several the last one that is needed."""
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        value = value[0] if len(value) == 1 else None
    return value if type(value) is int else None


def _refusal(whole: Config, vision: Config) -> str | None:
    """Return why features in the place of image tokens are not all that a picture changes."""
    text = whole.get("text_config")
    text = text if isinstance(text, Mapping) else {}
    for values in (text, whole):
        for name in ("rope_parameters", "rope_scaling"):
            rope = values.get(name)
            if isinstance(rope, Mapping) and "mrope_section" in rope:
                return "its image tokens have positions of three dimensions, which no graph of ours has a place for"
    if any(_first(values, "cross_attention_layers", "cross_layer_interval") for values in (text, whole)):
        return "its text part reads pictures in layers of its own, not in the place of image tokens"
    if _first(whole, "image_grid_pinpoints", "max_num_tiles"):
        return "it cuts pictures into tiles and joins their features by the pictures' shapes"
    if _first(vision, "rope_parameters", "rope_theta") or "spatial_merge_size" in whole:
        return "its vision part reads pictures of any shape, and makes image tokens by it"
    if _first(vision, "deepstack_visual_indexes"):
        return "its vision part adds to several layers of the text part"
    return None


def _projector(whole: Config, vision: Config, made: Mapping[str, Any], text_width: int) -> dict[str, int] | None:
    """Return tokens, multiply-adds and weights of what stands between the vision network and the text."""
    width, patches = made["width"], (made["image_size"] // made["patch_size"]) ** 2
    if "resampler_queries" in whole:
        return _resampler(whole, made, patches, text_width)
    pooled = _whole_number(_first({**_encoder(whole), **whole}, "mm_tokens_per_image"))
    if pooled is not None:
        # Gemma 3: patches are averaged, normalised, and go through one matrix.
        return _linear(pooled, width, text_width, biased=False, more=width)
    shuffled = _whole_number(_first(whole, "scale_factor"))
    if shuffled is not None:
        # Idefics 3: squares of patches become one wide row, and go through one matrix.
        return _linear(patches // shuffled**2, width * shuffled**2, text_width, biased=False)
    if "vision_feature_layer" in whole and "projector_hidden_act" in whole:
        return _of_llava(whole, made, patches, text_width)
    if is_davit(vision):
        # Florence-2: all patches of the last stage, and their mean.
        return _linear(davit_side(vision, made["image_size"]) ** 2 + 1, width, text_width, biased=False)
    return None


def _linear(rows: int, inputs: int, outputs: int, *, biased: bool, more: int = 0) -> dict[str, int]:
    weights = inputs * outputs + (outputs if biased else 0) + more
    return {"tokens_per_tile": rows, "projector_macs": rows * inputs * outputs, "projector_weights": weights}


def _of_llava(whole: Config, made: Mapping[str, Any], patches: int, text_width: int) -> dict[str, int] | None:
    layers = whole["vision_feature_layer"]
    inputs = made["width"] * (len(layers) if isinstance(layers, list) else 1)
    rows = patches + made["class_tokens"] - (whole.get("vision_feature_select_strategy") == "default")
    return {
        "tokens_per_tile": rows,
        "projector_macs": rows * text_width * (inputs + text_width),
        "projector_weights": text_width * (inputs + text_width + 2),
    }


def _resampler(whole: Config, made: Mapping[str, Any], patches: int, text_width: int) -> dict[str, int]:
    """Count the layers of ``slmbench.models.vision_network``."""
    width, inner = made["width"], made["ffn_width"]
    queries, layers = whole["resampler_queries"], whole["resampler_layers"]
    seen = patches + queries
    macs = 2 * width * width * (queries + seen) + 2 * queries * seen * width + 2 * queries * width * inner
    weights = 4 * (width + 1) * width + 2 * width * inner + inner + width + 6 * width
    return {
        "tokens_per_tile": queries,
        "projector_macs": layers * macs + queries * width * text_width,
        "projector_weights": layers * weights + queries * width + 2 * width + (width + 1) * text_width,
    }
