"""optimum-intel's default quantisation of a model, by its own configuration and NNCF: what is deployed as int4.

A configuration may want text (AWQ by activations, scale estimation). optimum-intel would download wikitext2; here the
user's text or the one that comes with slmbench stands in for it, in as many windows of as many tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from slmbench.errors import CannotRunError
from slmbench.evaluation.text import QualityText
from slmbench.export.calibration_text import calibration_text
from slmbench.export.recipes import DEFAULT, OPTIMUM, OptimumRecipe
from slmbench.export.routes import Progress
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import needed

#: As optimum-intel takes them of wikitext2.
WINDOWS, WINDOW_TOKENS = 128, 32
_KV_FLAG = ["runtime_options", "KV_CACHE_PRECISION"]


def compress_by_recipe(
    model: Any, checkpoint: Checkpoint, spec: ArtifactSpec, progress: Progress
) -> tuple[Any, dict[str, str]]:
    """Return the graph with weights as the recipe has them, and what the recipe came down to.

    Raises:
        CannotRunError: optimum-intel is missing, knows no such model, or wants what is not here (text, a tokenizer).
    """
    try:
        import nncf
        from optimum.intel import OVWeightQuantizationConfig
    except ImportError as error:
        raise CannotRunError(needed(error, "for --recipe optimum")) from error
    recipe = OptimumRecipe.of(spec.recipe or "") or OptimumRecipe("", "")
    chosen = _configuration(checkpoint, spec, recipe)
    made = {"configuration": json.dumps(chosen, default=str, sort_keys=True)}
    if "dataset" not in chosen and recipe.text:
        raise CannotRunError(f"--recipe {spec.recipe}: this configuration is not calibrated; leave ,text= out")
    wanted = {name: value for name, value in chosen.items() if name != "dataset"}
    dataset = None
    if "dataset" in chosen:
        text = calibration_text(spec.recipe or "")
        progress(f"calibrating with {text.name}, instead of {chosen['dataset']}")
        windows = _windows(checkpoint, text)
        made |= {"calibration text": f"{text.name} ({text.digest}), instead of {chosen['dataset']}"}
        made |= {"calibration windows": f"{len(windows)} of {WINDOW_TOKENS} tokens"}
        dataset = nncf.Dataset(list(_inputs(model, windows)))
    config = OVWeightQuantizationConfig(**wanted)
    nncf.set_log_level(40)  # logging.ERROR
    arguments = {name: value for name, value in config.to_nncf_dict().items() if name != "weight_only"}
    try:
        model = nncf.compress_weights(model, dataset=dataset, **arguments)
    except Exception as error:  # NNCF has no common class of errors
        raise CannotRunError(f"NNCF does not quantise {checkpoint.name} as {spec.recipe} says: {error}") from error
    if config.dq_group_size is not None:
        model.set_rt_info(str(config.dq_group_size), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    # As optimum-intel does with quantised graphs: K/V are then left to OpenVINO.
    if model.has_rt_info(_KV_FLAG):
        model.set_rt_info("", _KV_FLAG)
        del model.rt_info["runtime_options"]["KV_CACHE_PRECISION"]
    return model, made


def _configuration(checkpoint: Checkpoint, spec: ArtifactSpec, recipe: OptimumRecipe) -> dict[str, Any]:
    """Return optimum-intel's configuration: of the model that is named, or of a Hub checkpoint's own name."""
    from optimum.intel.openvino import configuration

    named = recipe.name
    fallback: dict[str, Any] = {"bits": 8, "sym": False}
    if spec.weight_precision == "int4":
        fallback = dict(configuration._DEFAULT_4BIT_WQ_CONFIG)
    if named == DEFAULT:
        return fallback
    found = configuration.get_default_quantization_config(named or checkpoint.name, weight_format=spec.weight_precision)
    if found is None and named:
        raise CannotRunError(
            f"--recipe {spec.recipe}: optimum-intel has no {spec.weight_precision} configuration of {named}; "
            f"{OPTIMUM}:{DEFAULT} is what it takes for models that it does not know"
        )
    chosen = fallback if found is None else dict(found)
    if "bits" not in chosen:
        raise CannotRunError(f"--recipe {spec.recipe}: that configuration is for a model of several parts")
    return chosen


def _windows(checkpoint: Checkpoint, text: QualityText) -> list[list[int]]:
    """Return windows of the text in the checkpoint's tokens."""
    from slmbench.measure.text_prompts import load_tokenizer, token_ids

    if checkpoint.family != "decoder-only":
        raise CannotRunError(f"--recipe optimum: {checkpoint.name} is no decoder-only model, which calibration needs")
    if checkpoint.path is None or not (checkpoint.path / "tokenizer.json").is_file():
        raise CannotRunError(
            f"--recipe optimum: this configuration is calibrated with text, and {checkpoint.name} has no tokenizer.json"
        )
    tokenizer, cut = load_tokenizer(checkpoint.path), []
    for document in text.documents:
        ids = token_ids(tokenizer, document.text)
        cut += [ids[at : at + WINDOW_TOKENS] for at in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS)]
    if not cut:
        raise CannotRunError(
            f"--recipe optimum: {checkpoint.name}'s tokenizer makes fewer than {WINDOW_TOKENS} tokens of each document "
            f"of {text.name}: too few to calibrate with"
        )
    # Evenly over the whole text.
    places = np.linspace(0, len(cut) - 1, min(WINDOWS, len(cut))).astype(int)
    return [cut[place] for place in places]


def _inputs(model: Any, windows: list[list[int]]) -> Iterator[dict[str, Any]]:
    """Yield what the graph of a decoder-only model reads of each window."""
    names = {name for port in model.inputs for name in port.get_names()}
    for window in windows:
        ids = np.array([window], np.int64)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(len(window), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        yield {name: value for name, value in feeds.items() if name in names}
