"""Pictures and text through openvino-genai's VLMPipeline, which prepares pictures itself and takes text alone.

The text that it gets has a word for each token id (see :mod:`.genai_words`), so that it reads the ids that are given.
"""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import (
    Artifact,
    BadInputError,
    CannotRunError,
    Checkpoint,
    Device,
    Pixels,
    Role,
    SessionOptions,
    Tokens,
)
from slmbench.models.vision_facts import shorter_edge_and_crop
from slmbench.system.files import json_object

from .genai_npu_session import make_stamper
from .genai_session import GenaiSession, whole_prompts
from .genai_words import PICTURE, word, write_tokenizer

#: What the pipeline calls each graph.
_FILES: dict[Role, str] = {
    "vision": "openvino_vision_embeddings_model",
    "embedding": "openvino_text_embeddings_model",
    "model": "openvino_language_model",
}
#: What it reads besides.
_CONFIGS = ("config.json", "preprocessor_config.json")
#: Types whose prompt is nothing but the words that are given, and a place for each row of features.
_PLAIN_PROMPTS = ("llava",)


def vision_refusal(checkpoint: Checkpoint) -> str | None:
    """Return why the pipeline does not read the very prompt that slmbench gives it, or None."""
    vision, use = checkpoint.vision, "use --backend openvino"
    if vision is None:
        return None
    if vision.refusal is not None:
        return vision.refusal
    if vision.model_type not in _PLAIN_PROMPTS:
        kind = vision.model_type or "a model of the catalog's own"
        return f"VLMPipeline takes {', '.join(_PLAIN_PROMPTS)} here, not {kind}; {use}"
    if checkpoint.path is None:
        # In a worker: the plan looked at the files.
        return None
    where = checkpoint.path / _CONFIGS[1]
    settings = json_object(where) if where.is_file() else {}
    if not shorter_edge_and_crop(settings):
        return (
            f"VLMPipeline prepares LLaVA's pictures by size.shortest_edge and crop_size of {_CONFIGS[1]} alone; {use}"
        )
    if checkpoint.given is not None and "image_mean" not in settings:
        return f"{_CONFIGS[1]} says no image_mean, for which VLMPipeline has a default of its own; {use}"
    return None


class VisionSession(GenaiSession):
    """The pipeline over one artifact. Batch 1."""

    #: Pictures come as they are, ``[height, width, 3]`` bytes, not as pixel tensors: what prepares them is the engine.
    takes_whole_pictures = True

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Load and compile the artifact.

        Raises:
            CannotRunError: openvino-genai refuses a graph or a property, or the artifact is of text alone.
        """
        vision = artifact.manifest.checkpoint.vision
        if vision is None:
            raise CannotRunError(f"{artifact.home}: is of text alone, and VLMPipeline is for pictures")
        self._token, self._tokens_each = vision.image_token_id, vision.tokens_per_tile
        self._paged = options.attention != "SDPA"
        self._images: list[Any] = []
        self._phases_ns: dict[str, int] = {}
        # The pipeline reads it once, while it opens. On Windows what is mapped stays until the process ends.
        with tempfile.TemporaryDirectory(prefix="slmbench-vlm-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder)
            super().__init__(artifact, device, options)

    def _place(self, artifact: Artifact) -> Path:
        """Return a folder of links to the artifact's graphs and configs, and a tokenizer of ours."""
        folder, checkpoint = self._folder, artifact.manifest.checkpoint
        links = {f"{name}{end}": artifact.graph(role).with_suffix(end) for role, name in _FILES.items()
                 for end in (".xml", ".bin")}  # fmt: skip
        try:
            for name, path in {**links, **{name: artifact.home / name for name in _CONFIGS}}.items():
                (folder / name).symlink_to(path.resolve())
        except OSError as error:
            raise CannotRunError(f"{folder}: no links can be made there: {error.strerror}") from error
        write_tokenizer(folder, checkpoint.geometry.vocab_size, self._token)
        return folder

    def _open(self, folder: str, engine_name: str, properties: dict[str, Any]) -> Any:
        import openvino_genai

        path = {"scheduler_config": whole_prompts()} if self._paged else {"ATTENTION_BACKEND": "SDPA"}
        return openvino_genai.VLMPipeline(folder, engine_name, **path, **properties)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Remember the shape.

        Raises:
            BadInputError: more than one prompt.
        """
        if batch != 1:
            raise BadInputError(f"VLMPipeline takes 1 prompt at a time, {batch} are asked")
        super().reserve(batch, input_tokens, output_tokens)

    def take_pictures(self, pixels: Pixels) -> None:
        """Hold pictures ``[height, width, 3]`` for the next prompts; the pipeline reads them again at each of them."""
        import openvino as ov

        self._images = [ov.Tensor(np.ascontiguousarray(one)[None]) for one in pixels.values()]

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from one prompt ``[1, input]``.

        Raises:
            BadInputError: the shape is beyond what is reserved, or the prompt has other places than for the pictures.
        """
        self._reserved.start(input_ids, output_tokens=output_tokens)
        began = perf_counter_ns()
        text = self._text(input_ids[0].tolist())
        stamps: list[int] = []
        tokens: list[int] = []
        config = self._config(output_tokens)
        config.apply_chat_template = False
        more = {"images": self._images} if self._images else {}
        made = self._pipeline.generate(
            text, **more, generation_config=config, streamer=make_stamper(stamps, tokens)
        )  # fmt: skip
        self._phases_ns = {}
        if self._images:
            vision = round(made.perf_metrics.get_vision_encoding_duration().mean * 1e6)
            self._phases_ns = {"vision": vision, "prefill": max(0, stamps[0] - began - vision)}
        return np.array([tokens], np.int64), stamps

    def phases_ns(self) -> dict[str, int]:
        """Return "vision", which holds the preparation of the pixels, and "prefill", the rest of the first token."""
        return dict(self._phases_ns)

    def _text(self, ids: list[int]) -> str:
        """Return the prompt in words, a picture's tag at each run of places.

        Raises:
            BadInputError: there are more or fewer places than the pictures take.
        """
        places = ids.count(self._token)
        if places != len(self._images) * self._tokens_each:
            raise BadInputError(
                f"{self._reserved.name}: a prompt with {places} image tokens, and {len(self._images)} pictures of "
                f"{self._tokens_each}: a token for each is taken"
            )
        said: list[str] = []
        for token, run in groupby(ids):
            count = sum(1 for _ in run)
            said += [PICTURE] * (count // self._tokens_each) if token == self._token else [word(token)] * count
        return " ".join(said)
