"""What the installed transformers knows: its model types, and the values that a config.json leaves out.

Without torch: the names of model types are read from transformers' source (importing them would import torch, seconds
and 300 MB), configs are made by its config classes, which need no torch.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.system.extras import needed

#: Layers that no text model reaches; transformers makes lists of them before anybody looks at their number.
_MOST_LAYERS = 4096
#: Nothing to measure, and things that transformers would make large or read from elsewhere.
_DROPPED = frozenset(
    {"auto_map", "id2label", "label2id", "num_labels", "quantization_config", "_name_or_path", "torch_dtype", "dtype",
     "architectures", "transformers_version"}
)  # fmt: skip
#: Read through a property on some config classes, so not among the values that they write.
_PROPERTIES = ("layer_types", "layers_block_type", "head_dim", "sliding_window")
_TABLES = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "pictures": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
}

#: Text parts of networks for pictures that transformers has without a head of their own: ours is put on them
#: (``slmbench.models.headed_text``).
HEADED = frozenset({"qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"})

Task = Literal["causal", "seq2seq", "masked", "pictures"]


def is_installed() -> bool:
    """Return whether transformers is there to ask."""
    return importlib.util.find_spec("transformers") is not None


def of_task(task: Task) -> frozenset[str]:
    """Return the model types that transformers has a network for, by what it does."""
    return frozenset(networks(task))


@functools.cache
def networks(task: Task) -> Mapping[str, str]:
    """Return the names of the classes of those networks, by model type."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    source = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and _name(node) == _TABLES[task] and isinstance(node.value, ast.Call):
            return dict(ast.literal_eval(node.value.args[0]))
    # Written in another way than in the versions that were seen: ask the module itself, torch and all.
    from transformers.models.auto import modeling_auto

    return dict(getattr(modeling_auto, _TABLES[task]))


def _name(node: ast.Assign) -> str:
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""


def knows(model_type: str) -> bool:
    """Return whether transformers has a config class for that model type."""
    return is_installed() and model_type in _configs()


def _configs() -> Any:
    """Return transformers' table of config classes by model type.

    Raises:
        CannotRunError: transformers is installed and cannot be imported; the text has the cause.
    """
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise CannotRunError(needed(error, "to read a checkpoint's config")) from error
    return CONFIG_MAPPING


def names() -> list[str]:
    """Return the model types that generate text."""
    return sorted(of_task("causal") | of_task("seq2seq"))


def completed(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a config with transformers' values for what it leaves out, and that of its text part if it nests one.

    Raises:
        BadInputError: transformers does not take the config; an absurd number of layers.
    """
    classes = _configs()
    import transformers

    _check_layers(config, where)
    transformers.utils.logging.set_verbosity_error()
    try:
        found = classes[config["model_type"]].from_dict(_plain(config))
        text = text_part(found)
        return _values(found), None if text is found else _values(text)
    except Exception as error:  # each config class has checks of its own
        raise BadInputError(f"{where}: transformers does not take it: {_short(error)}") from error


def text_part(config: Any) -> Any:
    """Return the config of the text part of transformers' config: itself where it nests none of its own family."""
    if not config.is_encoder_decoder:
        return config.get_text_config(decoder=True)
    nested = getattr(config, "text_config", None)
    return nested if getattr(nested, "is_encoder_decoder", False) else config


def _values(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_dict()
    for name in _PROPERTIES:
        if values.get(name) is None and getattr(config, name, None) is not None:
            values[name] = getattr(config, name)
    return values


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in config.items() if name not in _DROPPED}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    # How transformers writes what JSON has no number for.
    special = value.get("__float__") if len(value) == 1 else None
    return float(special) if special in ("Infinity", "-Infinity", "NaN") else _plain(value)


def _check_layers(config: Mapping[str, Any], where: str) -> None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            _check_layers(value, f"{where}, {name}")
        elif "layer" in name and type(value) is int and abs(value) > _MOST_LAYERS:
            raise BadInputError(f"{where}: '{name}' is {value}, not a sensible size")


def _short(error: Exception) -> str:
    return one_line(str(error))[:160] or type(error).__name__
