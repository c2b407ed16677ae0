"""From a checkpoint to its network in torch: fp32, eval mode.

Catalog checkpoints get random weights from the seed, the same bytes on every platform and with every version of torch
or NumPy (``slmbench.models.catalog_network``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.models import catalog
from slmbench.models.catalog_configs import PICTURES_IN_FRONT
from slmbench.models.catalog_network import NORM_DEVIATION, QUERY_GAIN, draw
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.network import in_text_part, load_folder, share_embedding
from slmbench.system.extras import needed

if TYPE_CHECKING:
    import torch


def load_model(checkpoint: Checkpoint, *, attention: str | None = "eager") -> torch.nn.Module:
    """Return the checkpoint's network in fp32 and eval mode, on the CPU, without gradients.

    ``attention`` is one of transformers' attention implementations ("eager", "sdpa", or a registered name); None takes
    the fastest that the network has.

    Raises:
        CannotRunError: torch or transformers is not installed.
        BadInputError: the folder's config or weights are not what transformers takes.
    """
    try:
        import torch  # noqa: F401 (is it installed?)
        import transformers

        # Loaded when they are asked for: what they lack shows now.
        transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM  # noqa: B018 (they are loaded when they are named)
    except ImportError as error:
        raise CannotRunError(needed(error, "to export")) from error
    transformers.utils.logging.disable_progress_bar()
    # Its warnings are for people who train; errors are exceptions.
    transformers.utils.logging.set_verbosity_error()
    if checkpoint.source == "catalog":
        model = _from_catalog(catalog.get(checkpoint.name), attention)
    else:
        model = _from_folder(checkpoint, attention)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def hf_config(entry: catalog.CatalogEntry) -> Any:
    """Return the transformers config of a catalog entry."""
    import transformers

    # T5's config turns tie_word_embeddings into scale_decoder_outputs; the flag itself must reach it.
    return transformers.AutoConfig.for_model(**entry.config)


def _auto_class(checkpoint_family: str) -> Any:
    import transformers

    if checkpoint_family == "encoder-decoder":
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _from_folder(checkpoint: Checkpoint, attention: str | None) -> Any:
    import torch

    path, family = checkpoint.path, checkpoint.family
    assert path is not None
    trusted = checkpoint.trust_remote_code
    try:
        model, lacking = load_folder(path, family, dtype=torch.float32, attention=attention, trust_remote_code=trusted)
    except Exception as error:  # transformers and safetensors raise many kinds
        raise BadInputError(f"{path}: transformers cannot load it: {_short(error)}") from error
    if lacking:
        # transformers draws them at random: not the checkpoint that was asked for.
        raise BadInputError(
            f"{path}: the weights lack {len(lacking)} of the parameters that config.json asks for, as {min(lacking)}"
        )
    return model


def build_empty(entry: catalog.CatalogEntry, attention: str | None = "eager") -> Any:
    """Return a catalog entry's network with every parameter on torch's meta device, ties made, buffers real."""
    import torch

    config = hf_config(entry)
    with _without_parameters():
        model = _auto_class(entry.family).from_config(config, dtype=torch.float32, attn_implementation=attention)
    model.tie_weights()
    if not entry.config["tie_word_embeddings"] and model.lm_head.weight is model.get_input_embeddings().weight:
        # transformers 5 ties every T5; the gated ones have an LM head of their own.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight), requires_grad=False)
    share_embedding(model)
    return model.eval()


def _from_catalog(entry: catalog.CatalogEntry, attention: str | None) -> Any:
    """Give each parameter of the empty network its own draw: nothing is allocated twice."""
    import torch

    model = build_empty(entry, attention)

    def values(module: Any, name: str, parameter: Any) -> Any:
        return torch.from_numpy(_values(entry, module, name, tuple(parameter.shape)))

    return _fill(model, values)


def build_whole(entry: catalog.CatalogEntry, text: Any, attention: str | None) -> Any:
    """Return the network of a catalog entry that takes pictures around its ``text`` network, whose weights it uses."""
    import torch

    assert entry.whole is not None
    known = dict(text.named_parameters(remove_duplicate=False))

    def values(module: Any, name: str, parameter: Any) -> Any:
        of_text = known.get(in_text_part(name))
        shape = tuple(parameter.shape)
        return torch.from_numpy(_vision_values(module, name, shape)) if of_text is None else of_text

    if entry.whole["model_type"] == PICTURES_IN_FRONT:
        from slmbench.models.vision_network import PictureReader, PicturesInFront

        width = text.get_input_embeddings().weight.shape[1]
        with _without_parameters():
            vision = PictureReader(entry.whole, width, attention)
        return PicturesInFront(_fill(vision, values), text, entry.whole["image_token_id"]).eval()
    import transformers

    config = transformers.AutoConfig.for_model(**entry.whole)
    with _without_parameters():
        whole = transformers.AutoModelForImageTextToText.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    whole.tie_weights()
    return _fill(whole, values).eval()


def _fill(model: Any, values: Callable[[Any, str, Any], Any]) -> Any:
    """Give each parameter what ``values(module, name, parameter)`` returns; a tied one by the first of its names."""
    import torch

    filled: dict[int, Any] = {}
    for module_name, module in model.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in filled:
                found = values(module, f"{module_name}.{name}" if module_name else name, parameter)
                filled[id(parameter)] = torch.nn.Parameter(found, requires_grad=False), parameter
            module._parameters[name] = filled[id(parameter)][0]
    return model


@contextlib.contextmanager
def _without_parameters() -> Iterator[None]:
    """Put every parameter that is registered inside the block on torch's meta device; buffers stay real.

    (Building everything under ``torch.device("meta")`` would lose the buffers, which hold rotary frequencies.)
    """
    import torch

    register = torch.nn.Module.register_parameter

    def register_meta(module: Any, name: str, parameter: Any) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    torch.nn.Module.register_parameter = register_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def _values(entry: catalog.CatalogEntry, module: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of one parameter.

    Matrices have a standard deviation of 1/sqrt(inputs), so that activations keep their size through the
    layers; embeddings are small compared to what the layers add, otherwise a tied LM head would only repeat its input.
    Normalisation weights are 1 (or 0, where the module adds 1) and a little, so that dropping them shows.
    """
    kind = type(module).__name__
    if "Sinusoidal" in kind:
        return np.ascontiguousarray(module.create_weight().detach().numpy(), dtype=np.float32)
    if "Norm" in kind:
        centre = 1.0 if name.endswith("weight") and "Gemma" not in kind else 0.0
        return draw(name, shape, NORM_DEVIATION) + np.float32(centre)
    if len(shape) < 2:
        return draw(name, shape, 0.02)
    if kind.endswith("Embedding"):
        return draw(name, shape, _embedding_deviation(entry, name, shape))
    gain = 1.0
    if name.endswith((".q.weight", ".q_proj.weight")):
        # Attention a little sharper than chance, so that answers depend on the prompt. Sharper still, rounding is
        # amplified from layer to layer, and lower precisions answer otherwise than any trained model would.
        gain = 3.0 if entry.normalised_after else QUERY_GAIN
        if entry.architecture == "t5":
            # T5 does not divide scores by sqrt(head size): its trained queries are that much smaller.
            gain /= math.sqrt(entry.config["d_kv"])
    elif entry.normalised_after and name.endswith(".fc2.weight"):
        # A block that is normalised after adding must outweigh what it adds to, or the input token gets through.
        gain = 3.0
    elif entry.quiet_attention and "decoder." in name and name.endswith(".out_proj.weight"):
        gain = 1 / 3
    return draw(name, shape, gain / math.sqrt(math.prod(shape[1:])))


def _vision_values(module: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of a parameter of a vision part; see :func:`_values`."""
    kind, place = type(module).__name__, f"vision.{name}"
    if "Norm" in kind:
        return draw(place, shape, NORM_DEVIATION) + np.float32(name.endswith("weight"))
    if len(shape) < 2:
        return draw(place, shape, 0.02)
    if kind.endswith("Embedding") or name == "queries":
        return draw(place, shape, 1.0)
    # Queries sharper than chance, so that features depend on what is in the picture.
    gain = 2.0 if name.endswith("q_proj.weight") else 1.0
    return draw(place, shape, gain / math.sqrt(math.prod(shape[1:])))


def _embedding_deviation(entry: catalog.CatalogEntry, name: str, shape: tuple[int, ...]) -> float:
    if "relative_attention_bias" in name:
        return 0.5
    width = shape[1]
    # The Gemmas multiply embeddings by sqrt(width) on the way in.
    return 1 / width if entry.architecture in ("gemma3_text", "t5gemma", "t5gemma2") else 1 / math.sqrt(width)


def _short(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__
