"""A tokenizer of one word for each token id, so that a pipeline that takes text reads the ids that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Stands in the text for a picture.
PICTURE = "<image>"


def word(token: int) -> str:
    """Return the word of an id."""
    return f"w{token}"


def write_tokenizer(folder: Path, vocabulary: int, image_token: int) -> None:
    """Write openvino-tokenizers' pair of graphs: words between spaces, and a picture's tag wherever it is."""
    import openvino as ov
    from openvino_tokenizers import tokenizer_pipeline as steps
    from openvino_tokenizers.utils import change_inputs_type, change_outputs_type

    # Some checkpoints have an image token beyond their vocabulary.
    words = [word(token) for token in range(max(vocabulary, image_token + 1))]
    words[image_token] = PICTURE
    ids = _pipeline([
        steps.SpecialTokensSplit([steps.SpecialToken(PICTURE)]),
        steps.WhitespaceSplitStep(),
        steps.VocabEncoderStep(words, default_value=image_token),
        # Truncates nothing; the engine looks for it.
        steps.TruncationStep(max_length=2**31 - 1),
        steps.CombineSegmentsStep([steps.Sequence(token_type_id=0)]),
        steps.PaddingStep(pad_right=True, max_length=2**31 - 1),
    ])  # fmt: skip
    text = _pipeline([steps.VocabDecoderStep([f" {one}" for one in words], [image_token]), steps.FuseStep()])
    encoder = change_outputs_type(ids.get_tokenizer_ov_subgraph(), ov.Type.i64)
    ov.save_model(encoder, folder / "openvino_tokenizer.xml")
    ov.save_model(
        change_inputs_type(text.get_detokenizer_ov_subgraph(), ov.Type.i64), folder / "openvino_detokenizer.xml"
    )


def _pipeline(made: Sequence[object]) -> Any:
    from openvino_tokenizers.tokenizer_pipeline import TokenizerPipeline

    pipeline = TokenizerPipeline()
    pipeline.add_steps(list(made))
    return pipeline
