"""OpenVINO IR folders in optimum-intel's layout: one stateful graph, or an encoder and a decoder."""

from __future__ import annotations

import math
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.given.description import Description, files_of, short
from slmbench.given.hf_files import ModelConfig, check_vocabulary, read_model_config, tokenizer_of
from slmbench.given.ir_xml import BITS, IrGraph, IrLayer, read_ir, small_integers
from slmbench.models.given_record import ALL_LOGITS, CROSS_KV_AGAIN, GivenRole
from slmbench.terms import Precision

MODEL, ENCODER, DECODER = "openvino_model.xml", "openvino_encoder_model.xml", "openvino_decoder_model.xml"
#: optimum-intel's graphs of a model for pictures; the text's takes embeddings.
_LANGUAGE = "openvino_language_model.xml"
_OF_PICTURES: dict[GivenRole, str] = {
    "vision": "openvino_vision_embeddings_model.xml",
    "embedding": "openvino_text_embeddings_model.xml",
    "model": _LANGUAGE,
}
#: Their inputs that a loop knows how to feed.
_PICTURE_INPUTS: dict[GivenRole, frozenset[str]] = {
    "vision": frozenset({"pixel_values"}),
    "embedding": frozenset({"input", "input_ids"}),
    "model": frozenset({"inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "beam_idx"}),
}
_TOKENIZERS = {"openvino_tokenizer.xml", "openvino_detokenizer.xml"}
#: Other files that an engine opens by its name, or reads when it loads the folder.
_ENDINGS = (".xml", ".bin", ".json", ".txt", ".jinja", ".model", ".spm")
#: Inputs that a loop knows how to feed.
_KNOWN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "beam_idx", "encoder_hidden_states", "encoder_attention_mask",
     "decoder_input_ids"}
)  # fmt: skip
#: What may stand between the last position's states, the LM head and the logits.
_PASSED = {"Add", "Divide", "Multiply", "Tanh", "Convert", "Reshape", "Unsqueeze", "Squeeze", "Subtract"}
_CUTS = {"Slice", "StridedSlice", "Gather"}
_TYPES: dict[str, Precision] = {"f32": "fp32", "f64": "fp32", "f16": "fp16", "bf16": "bf16"}


def is_folder(folder: Path) -> bool:
    """Tell whether the folder is laid out like this."""
    return any((folder / name).is_file() for name in (MODEL, DECODER, _LANGUAGE))


def describe(folder: Path) -> Description:
    """Return what the folder is.

    Raises:
        BadInputError: a graph is damaged, needs an extension, has inputs that nobody could feed, or does not fit its
            config.json.
    """
    files = [name for name in files_of(folder) if name.endswith(_ENDINGS)]
    config = read_model_config(folder)
    names = _names(folder, files, config)
    for name in names.values():
        if name not in files or name.replace(".xml", ".bin") not in files:
            kind = f"{config.family} model" + (" for pictures" if "vision" in names else "")
            raise BadInputError(f"{folder}: has no {name} with its .bin; its config.json describes a {kind}")
    graphs = {role: read_ir(folder / name) for role, name in names.items()}
    stepped = graphs["decoder" if "decoder" in graphs else "model"]
    for role, graph in graphs.items():
        unknown = graph.input_names() - (_PICTURE_INPUTS[role] if "vision" in names else _KNOWN_INPUTS)
        if unknown and role != "encoder":
            raise BadInputError(f"{folder / names[role]}: has the input {short(min(unknown))}, which no loop can feed")
    check_vocabulary(folder, config.geometry.vocab_size, _vocabulary(stepped))
    states = len(stepped.of_type("ReadValue"))
    if not states:
        raise BadInputError(f"{folder}: its graph keeps no K/V as states (optimum-intel's --stateful); export it so")
    types = _weight_types(list(graphs.values()))
    weights = (folder / names["decoder" if "decoder" in names else "model"]).with_suffix(".bin")
    # A decoder of an encoder-decoder reads one token at a time.
    many = config.family == "decoder-only" and not _cuts_before_head(stepped, weights)
    flags = [ALL_LOGITS] if many else []
    if config.family == "encoder-decoder" and states < 4 * config.geometry.decoder_layers:
        flags.append(CROSS_KV_AGAIN)
    return Description(
        layout="openvino_ir",
        family=config.family,
        architecture=config.architecture,
        geometry=config.geometry,
        precision=_precision(types),
        weight_types=types,
        decode_weight_bytes=_decode_bytes(stepped, config.geometry.vocab_size),
        graphs=names,
        files=files,
        parameters=sum(count for count, _ in types.values()),
        producer={short(key): short(value) for key, value in stepped.notes.items()},
        context_length=config.geometry.max_total_tokens,
        tokenizer=tokenizer_of(folder, config.geometry.vocab_size),
        attention="SDPA, stateful",
        flags=flags,
        inputs=sorted(stepped.input_names()),
        eos_token_ids=config.eos_token_ids,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        vision=config.vision if "vision" in names else None,
    )


def _names(folder: Path, files: list[str], config: ModelConfig) -> dict[GivenRole, str]:
    """Return the graphs that the folder should have.

    Raises:
        BadInputError: they are of a model whose pictures go in otherwise than by features in the place of tokens.
    """
    if _LANGUAGE not in files or MODEL in files:
        return {"model": MODEL} if config.family == "decoder-only" else {"encoder": ENCODER, "decoder": DECODER}
    refusal = config.vision.refusal if config.vision else "its config.json describes no part that reads pictures"
    others = [one for one in files if one.endswith(".xml") and one not in {*_OF_PICTURES.values(), *_TOKENIZERS}]
    if others and not refusal:
        refusal = f"it has {short(others[0])} as well, which no loop here drives"
    if refusal:
        raise BadInputError(f"{folder}: an export for pictures that cannot be measured: {refusal}")
    return dict(_OF_PICTURES)


def _vocabulary(graph: IrGraph) -> int | None:
    """Return the last dimension of the logits."""
    for key in graph.of_type("Result"):
        ports = graph.layers[key].ports
        if ports and len(ports[0]) == 3 and ports[0][2] > 0:
            return ports[0][2]
    return None


def _is_scale(layer: IrLayer) -> bool:
    """Tell whether a constant is a scale or a zero point: one number for a row or a group."""
    return len(layer.shape) > 1 and layer.shape[-1] == 1


def _weight_types(graphs: list[IrGraph]) -> dict[str, tuple[int, int]]:
    """Return (weights, bytes) by type; a scale or zero point takes bytes and is no weight."""
    found: dict[str, tuple[int, int]] = {}
    for graph in graphs:
        for layer in graph.constants():
            name = layer.data["element_type"]
            count, size = found.get(name, (0, 0))
            own = 0 if _is_scale(layer) else math.prod(layer.shape)
            found[name] = count + own, size + int(layer.data["size"])
    return found


def _precision(types: dict[str, tuple[int, int]]) -> Precision:
    largest = max(types, key=lambda name: types[name][0], default="f32")
    if largest in _TYPES:
        return _TYPES[largest]
    return "int8" if BITS[largest] > 4 else "int4"


def _decode_bytes(graph: IrGraph, vocabulary: int) -> int:
    """Return the bytes that a step reads: all, but of an embedding that is not the LM head as well only a row."""
    layers = graph.constants()
    tables = [one for one in layers if one.shape[:1] == (vocabulary,) and not _is_scale(one) and len(one.shape) > 1]
    unread = int(tables[0].data["size"]) if len(tables) > 1 else 0
    return sum(int(one.data["size"]) for one in layers) - unread


def _cuts_before_head(graph: IrGraph, weights: Path) -> bool:
    """Tell whether the LM head gets the last position only.

    transformers slices the states in any case: from their beginning where nobody asks for less.
    """
    results = [key for key in graph.of_type("Result") if graph.inputs.get(key)]
    key = graph.inputs[results[0]][0] if results else ""
    past_head = False
    for _ in range(32):
        layer = graph.layers.get(key)
        if layer is None:
            return False
        if layer.type in _CUTS:
            places = [graph.layers[one] for one in graph.inputs.get(key, [])[1:2] if one in graph.layers]
            begin = small_integers(places[0], weights) if places else None
            if begin is None or -1 in begin:
                return True
        elif layer.type == "MatMul":
            if past_head:
                return False
            past_head = True
        elif layer.type not in _PASSED:
            return False
        feeds = [one for one in graph.inputs.get(key, []) if one in graph.layers]
        wanted = [one for one in feeds if graph.layers[one].type not in ("Const", "Convert")]
        # Behind the head, a sum of two computed tensors is where the layers end.
        if not (wanted or feeds) or (past_head and layer.type == "Add" and len(wanted) > 1):
            return False
        key = (wanted or feeds)[0]
    return False
