"""Our OpenVINO loop after a picture against openvino-genai's VLMPipeline: one LLaVA checkpoint, the same weights.

    python benchmarks/vlm_parity.py [--loads 5] [--rounds 5] [--inputs 32 128]

A LLaVA of random weights (CLIP ViT-S/16 at 224 pixels, 196 image tokens; a Llama of 8 layers) is written with a
tokenizer and a processor. optimum-intel exports it for VLMPipeline; ours is the generic route's artifact of the same
checkpoint, or with `--exporter optimum` optimum-intel's graphs as well, joined in memory. Both compute
in fp32 with K/V in fp32, with as many threads.

VLMPipeline's time to the first token holds tokenisation and the preparation of the picture. Ours starts at pixel
tensors, so that preparation (`preprocess`, by transformers) is added; "without" leaves it out. Wanted: at most 1.05.

Both sides are loaded side by side and their samples interleaved; a figure is the median over loads of the ratio of
medians within a load. The machine may be shared: a ratio counts, a time does not.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from openvino_parity import Timing, report

from slmbench.backend import Session, TakesPictures, load_backend, specs_of
from slmbench.errors import CannotRunError
from slmbench.export.build import ensure_artifact
from slmbench.measure.pictures import Processor, drawn
from slmbench.models.artifact import Artifact
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.system.telemetry import silence_telemetry

_VOCABULARY, _IMAGE = 8192, 8191
_SIDE = 224
#: A picture and words → the time of the first token, the same without `preprocess`, and the time of the last token.
Generates = Callable[[Any, list[int]], tuple[float, float, float]]


def write_checkpoint(folder: Path) -> None:
    """Write a LLaVA with seeded random weights, its tokenizer of plain words and its processor."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vision = {
        "model_type": "clip_vision_model", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 6, "image_size": _SIDE, "patch_size": 16,
    }  # fmt: skip
    text = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": _VOCABULARY, "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(
        "llava", vision_config=vision, text_config=text, image_token_index=_IMAGE, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": _IMAGE}
    words |= {f"w{index}": index for index in range(4, _IMAGE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    ).save_pretrained(folder)  # fmt: skip
    tile = {"height": _SIDE, "width": _SIDE}
    processor = {
        "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor", "crop_size": tile,
        "size": {"shortest_edge": _SIDE},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    whole = {"processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": 16,
             "vision_feature_select_strategy": "default"}  # fmt: skip
    (folder / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")


def export_theirs(checkpoint: Path, folder: Path) -> None:
    """Have optimum-intel write its three graphs, and openvino-tokenizers the tokenizer's."""
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig
    from transformers import AutoTokenizer

    main_export(str(checkpoint), str(folder), task="image-text-to-text", ov_config=OVConfig(dtype="fp32"))
    pair = convert_tokenizer(AutoTokenizer.from_pretrained(checkpoint), with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), pair, strict=True):
        ov.save_model(model, folder / f"openvino_{name}.xml")


def open_theirs(folder: Path, options: argparse.Namespace) -> Generates:
    """Return VLMPipeline's side; tokens are stamped as its streamer gets them."""
    import openvino as ov
    import openvino_genai

    path = {} if options.attention == "default" else {"ATTENTION_BACKEND": options.attention}
    pipeline = openvino_genai.VLMPipeline(
        str(folder), "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32",
        INFERENCE_NUM_THREADS=options.threads, DYNAMIC_QUANTIZATION_GROUP_SIZE=0, **path,
    )  # fmt: skip
    config = openvino_genai.GenerationConfig(
        max_new_tokens=options.output_tokens, do_sample=False, ignore_eos=True, apply_chat_template=False
    )

    class Stamps(openvino_genai.StreamerBase):  # type: ignore[misc]  # a class of C++
        def __init__(self) -> None:
            super().__init__()
            self.at: list[int] = []

        def write(self, tokens: Any) -> Any:
            self.at += [perf_counter_ns()] * (len(tokens) if isinstance(tokens, list) else 1)
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    def generate(picture: Any, words: list[int]) -> tuple[float, float, float]:
        text, image, stamps = "<image> " + " ".join(f"w{one}" for one in words), ov.Tensor(picture[None]), Stamps()
        began = perf_counter_ns()
        pipeline.generate(text, images=[image], generation_config=config, streamer=stamps)
        if len(stamps.at) != options.output_tokens:
            raise CannotRunError(f"{options.output_tokens} tokens asked, VLMPipeline gave {len(stamps.at)}")
        first = stamps.at[0] - began
        return first, first, stamps.at[-1] - began

    return generate


def open_ours(checkpoint: Checkpoint, artifact: Artifact, options: argparse.Namespace) -> Generates:
    """Return our loop's side."""
    backend = load_backend("openvino")
    session = backend.open(artifact, "cpu", backend.options_type(threads=options.threads))
    assert isinstance(session, Session)
    assert isinstance(session, TakesPictures)
    assert checkpoint.vision is not None
    processor, token = Processor.of(checkpoint, artifact.home), checkpoint.vision.image_token_id
    places = [token] * checkpoint.vision.tokens_per_tile
    session.reserve(1, len(places) + max(options.inputs), options.output_tokens)

    def generate(picture: Any, words: list[int]) -> tuple[float, float, float]:
        began = perf_counter_ns()
        pixels = processor([picture])
        ready = perf_counter_ns()
        session.take_pictures(pixels)
        ids = np.array([places + words], np.int64)
        started = perf_counter_ns()
        fed = session.start(ids)
        first = perf_counter_ns() - started
        for _ in range(1, options.output_tokens):
            fed = session.step(fed)
        last = perf_counter_ns() - started
        preprocess = ready - began
        return first + preprocess, first, last + preprocess

    return generate


def ratios(opens: Callable[[], tuple[Generates, Generates]], inputs: int, options: argparse.Namespace) -> Any:
    """Return per load our medians over theirs: with preprocessing, and without it."""
    rng, found = np.random.default_rng(inputs), []
    for load in range(options.loads):
        sides = opens()
        taken: dict[int, list[tuple[float, float, float]]] = {0: [], 1: []}
        for round_ in range(options.rounds + 2):
            for side in (0, 1) if rng.random() < 0.5 else (1, 0):
                picture = drawn(int(rng.integers(2**31)), options.picture, options.picture)
                made = sides[side](picture, rng.integers(4, _IMAGE, inputs).tolist())
                if round_ > 1:
                    taken[side].append(made)
        ours, theirs = ([statistics.median(one) for one in zip(*taken[side], strict=True)] for side in (0, 1))
        steps = [(side[2] - side[0]) for side in (ours, theirs)]
        found.append((Timing(ours[0] / theirs[0], steps[0] / steps[1]), ours[1] / theirs[1]))
        print(f"load {load}: ours {ours[0] / 1e6:.1f} ({ours[1] / 1e6:.1f} without) theirs {theirs[0] / 1e6:.1f} ms")
        del sides
        gc.collect()
    return found


def main() -> None:
    """Measure what is asked and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inputs", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--picture", type=int, default=320, help="pixels a side of the pictures, before preparation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["default", "PA", "SDPA"], default="default", help="VLMPipeline's")
    parser.add_argument("--exporter", choices=["generic", "optimum"], default="generic", help="of our loop's graphs")
    parser.add_argument("--folder", type=Path, help="keep checkpoint and export here, and use them again")
    options = parser.parse_args()
    silence_telemetry()
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        if not (folder / "llava" / "config.json").is_file():
            write_checkpoint(folder / "llava")
        if not (folder / "exported" / "openvino_detokenizer.xml").is_file():
            export_theirs(folder / "llava", folder / "exported")
        checkpoint = resolve(str(folder / "llava"))
        specs = specs_of(load_backend("openvino"), checkpoint, "fp32", "cpu", pictures=True)
        spec = next(one for one in specs if one.exporter == options.exporter)
        artifact = ensure_artifact(checkpoint, spec, progress=print)
        print("| what | input tokens | ttft ratio (loads) | tpot ratio (loads) |")
        print("| :--- | ---: | :--- | :--- |")
        for inputs in options.inputs:

            def opens() -> tuple[Generates, Generates]:
                return open_ours(checkpoint, artifact, options), open_theirs(folder / "exported", options)

            found = ratios(opens, inputs, options)
            report("with preprocess", inputs, [timing for timing, _ in found])
            report("without", inputs, [Timing(first, timing.tpot) for timing, first in found])


if __name__ == "__main__":
    main()
