"""What the installed transformers knows: its model types, and the values that a config.json leaves out.

Without torch: the names of model types are read from transformers' source, configs are made by its config classes in a
process where it finds no torch (with it they take seconds and half a gigabyte, and give the same).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.system.extras import needed
from slmbench.system.processes import child_environment, follow_host
from slmbench.system.telemetry import output_is_ours, silence_telemetry
from slmbench.terms import StrictModel

#: Seconds without a question after which the process that answers ends.
_IDLE_S = 10.0
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
    return is_installed() and _answer({"model_type": model_type}).known


def names() -> list[str]:
    """Return the model types that generate text."""
    return sorted(of_task("causal") | of_task("seq2seq"))


def completed(config: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Return a config with transformers' values for what it leaves out, and that of its text part if it nests one.

    None where transformers is not installed, or does not know the model type.

    Raises:
        BadInputError: transformers does not take the config; an absurd number of layers.
        CannotRunError: transformers is installed and cannot be imported.
    """
    if not is_installed():
        return None
    _check_layers(config, where)
    try:
        found = _answer(config)
    except RecursionError as error:
        raise BadInputError(f"{where}: nested too deep") from error
    if found.refusal:
        raise BadInputError(f"{where}: transformers does not take it: {found.refusal}")
    return (dict(found.values), found.text) if found.known else None


class _CompletedConfig(StrictModel):
    """What transformers makes of a config."""

    known: bool
    values: dict[str, Any] = Field(default_factory=dict)
    text: dict[str, Any] | None = None
    refusal: str = ""
    #: Why transformers cannot be imported.
    broken: str = ""


def _answer(config: Mapping[str, Any]) -> _CompletedConfig:
    """Ask transformers: here where this process has torch anyway, else in a process that hides torch from it.

    transformers imports torch with its first config class, where it finds one: half a gigabyte that nobody else in the
    host needs.

    Raises:
        CannotRunError: transformers cannot be imported.
    """
    asked = json.dumps(_plain(config))
    found = _asked(asked) if "torch" in sys.modules else _asked_elsewhere(asked)
    if found.broken or found.refusal:
        # Perhaps for want of torch alone.
        found = _asked(asked)
    if found.broken:
        raise CannotRunError(found.broken)
    return found


def _asked(config: str) -> _CompletedConfig:
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        return _CompletedConfig(known=False, broken=needed(error, "to read a checkpoint's config"))
    transformers.utils.logging.set_verbosity_error()
    try:
        values = json.loads(config)
        if values["model_type"] not in CONFIG_MAPPING:
            return _CompletedConfig(known=False)
        found = CONFIG_MAPPING[values["model_type"]].from_dict(values)
        text = text_part(found)
        return _CompletedConfig(known=True, values=_values(found), text=None if text is found else _values(text))
    except Exception as error:  # each config class has checks of its own
        return _CompletedConfig(known=True, refusal=_short(error))


@functools.lru_cache(maxsize=256)
def _asked_elsewhere(config: str) -> _CompletedConfig:
    """Ask the process that answers; it ends when nobody asks for a while, and is started again then."""
    with _ASKING:
        for _ in range(2):
            asker = _running_asker()
            assert asker.stdin is not None
            assert asker.stdout is not None
            with contextlib.suppress(OSError):
                asker.stdin.write(config.encode() + b"\n")
                asker.stdin.flush()
            if line := asker.stdout.readline():
                return _CompletedConfig.model_validate_json(line)
            # It had just ended.
            asker.kill()
            asker.wait()
    return _CompletedConfig(known=False, broken="the process that asks transformers ended")


_ASKING = threading.Lock()
_askers: list[subprocess.Popen[bytes]] = []


def _running_asker() -> subprocess.Popen[bytes]:
    """Return the one process that answers: its start takes a second."""
    if not _askers or _askers[0].poll() is not None:
        command = [sys.executable, "-P", "-m", "slmbench.models.known_types"]
        _askers[:] = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        ]
    return _askers[0]


def _main() -> None:
    """Answer about configs, one in a line of standard input; end when none comes for a while."""
    follow_host()
    silence_telemetry()
    # None is Python's own way to say that a module must not be imported.
    sys.modules["torch"] = None  # type: ignore[assignment]  # as said above
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies, output_is_ours():
        idle = _idle_timer()
        for line in sys.stdin.buffer:
            idle.cancel()
            replies.write(json.dumps(_asked(line.decode()).model_dump(), default=str).encode() + b"\n")
            idle = _idle_timer()


def _idle_timer() -> threading.Timer:
    timer = threading.Timer(_IDLE_S, os._exit, [0])
    timer.daemon = True
    timer.start()
    return timer


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


if __name__ == "__main__":
    _main()
