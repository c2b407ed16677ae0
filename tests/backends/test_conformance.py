"""Every backend of ours keeps the contract, as slmbench.testing tells it to anyone's; and the checks do notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from cpu_abilities import need_exact_int8_of_ctranslate2
from rotation import in_turn

from slmbench import testing
from slmbench.backend import Placement, SessionOptions, load_backend
from slmbench.errors import CannotRunError
from slmbench.models.artifact import ArtifactSpec

pytest.importorskip("torch", reason="exporting needs slmbench[export]")

#: Backend, checkpoint, device, precision, options, spec.
Case = tuple[str, str, str, str, dict[str, Any], dict[str, Any] | None]
STATIC = {"layout": "static", "input_tokens": 64, "output_tokens": 24}
PICTURES = {"exporter": "generic", "pictures": True}
CASES: dict[str, Case] = {
    "openvino": ("openvino", "llama-tiny", "cpu", "fp32", {}, {"format": "openvino"}),
    "openvino-t5": ("openvino", "t5-tiny", "cpu", "fp32", {}, {"format": "openvino"}),
    "openvino-static": ("openvino", "mu-tiny", "cpu", "fp32", {}, {"format": "openvino", **STATIC}),
    "openvino-npuw": ("openvino", "t5-tiny", "npu", "fp32", {"simulate": True}, None),
    "onnxruntime": ("onnxruntime", "llama-tiny", "cpu", "fp32", {}, {"format": "onnx"}),
    "onnxruntime-t5": ("onnxruntime", "t5-tiny", "cpu", "fp32", {}, {"format": "onnx"}),
    "onnxruntime-static": ("onnxruntime", "mu-tiny", "cpu", "fp32", {}, {"format": "onnx", **STATIC}),
    "onnxruntime-htp": (
        "onnxruntime", "t5-tiny", "npu", "fp16", {"simulate": True, "compute_precision": "fp16"}, None,
    ),
    "onnxruntime-cuda-graphs": (
        "onnxruntime", "llama-tiny", "cpu", "fp32", {}, {"format": "onnx", "target": "cuda"},
    ),
    "onnxruntime-cuda-graphs-t5": ("onnxruntime", "t5-tiny", "cpu", "fp32", {}, {"format": "onnx", "target": "cuda"}),
    "torch": ("torch", "llama-tiny", "cpu", "fp32", {}, None),
    "torch-t5": ("torch", "t5-tiny", "cpu", "fp32", {}, None),
    "openvino-pictures": ("openvino", "mu-vision-tiny", "cpu", "fp32", {}, {"format": "openvino", **PICTURES}),
    "openvino-pictures-decoder": (
        "openvino", "dec-vision-tiny", "cpu", "fp32", {}, {"format": "openvino", **PICTURES},
    ),
    "onnxruntime-pictures": ("onnxruntime", "dec-vision-tiny", "cpu", "fp32", {}, {"format": "onnx", **PICTURES}),
    "onnxruntime-pictures-encoder": (
        "onnxruntime", "mu-vision-tiny", "cpu", "fp32", {}, {"format": "onnx", **PICTURES},
    ),
    "torch-pictures": (
        "torch", "dec-vision-tiny", "cpu", "fp32", {}, {"format": "torch", "exporter": "none", "pictures": True},
    ),
    "torch-pictures-encoder": (
        "torch", "mu-vision-tiny", "cpu", "fp32", {}, {"format": "torch", "exporter": "none", "pictures": True},
    ),
    "openvino_genai": ("openvino_genai", "llama-tiny", "cpu", "fp32", {}, None),
    "llama_cpp": ("llama_cpp", "llama-tiny", "cpu", "fp32", {}, None),
    "llama_cpp-int8": ("llama_cpp", "dec-tiny", "cpu", "int8", {"compute_precision": "int8"}, None),
    "llama_cpp-q4_k_m": ("llama_cpp", "dec-tiny", "cpu", "q4_k_m", {"compute_precision": "int8"}, None),
    "llama_cpp-t5": ("llama_cpp", "t5-tiny", "cpu", "fp32", {}, None),
    "ctranslate2": ("ctranslate2", "llama-tiny", "cpu", "fp32", {}, None),
    "ctranslate2-t5": ("ctranslate2", "t5-tiny", "cpu", "fp32", {}, None),
    "ctranslate2-int8": ("ctranslate2", "t5-tiny", "cpu", "int8", {"compute_precision": "int8"}, None),
    "onnxruntime_genai": ("onnxruntime_genai", "llama-tiny", "cpu", "fp32", {}, None),
}  # fmt: skip
QUICK = ["openvino", "openvino-t5", "onnxruntime", "torch-t5", "openvino-npuw"]
AFTER_PICTURES = [name for name in CASES if "pictures" in name]
SLOW = in_turn([name for name in CASES if name not in (*QUICK, *AFTER_PICTURES)], 3) + in_turn(AFTER_PICTURES, 6)


@cache
def subject_of(name: str) -> testing.Subject:
    backend_name, checkpoint, device, precision, options, spec = CASES[name]
    backend = load_backend(backend_name)
    if name == "onnxruntime-htp":
        pytest.importorskip("onnxruntime_qnn", reason="the HTP emulator needs onnxruntime-qnn")
    if backend_name == "llama_cpp":
        pytest.importorskip("llama_cpp", reason="needs slmbench[llama]")
    if backend_name == "ctranslate2":
        pytest.importorskip("ctranslate2", reason="needs slmbench[ct2]")
    return testing.subject(
        backend,
        checkpoint,
        device=device,  # type: ignore[arg-type]  # a plain string of the table above
        precision=precision,  # type: ignore[arg-type]  # as well
        options=backend.options_type.model_validate(options),
        spec=None if spec is None else ArtifactSpec.model_validate(spec),
    )


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_contract(name: str, check: Callable[[testing.Subject], None]) -> None:
    if name == "ctranslate2-int8" and check is testing.check_tokens:
        need_exact_int8_of_ctranslate2()
    check(subject_of(name))


class Wrong:
    """A session of another backend with one thing spoilt."""

    def __init__(self, session: Any, spoil: dict[str, Any]) -> None:
        self._session, self._spoil = session, spoil

    def __getattr__(self, name: str) -> Any:
        return self._spoil[name].__get__(self) if name in self._spoil else getattr(self._session, name)

    def start(self, *given: Any) -> Any:
        return self.__getattr__("start")(*given) if "start" in self._spoil else self._session.start(*given)

    def step(self, tokens: Any) -> Any:
        return self.__getattr__("step")(tokens) if "step" in self._spoil else self._session.step(tokens)

    def phases_ns(self) -> dict[str, int]:
        return self.__getattr__("phases_ns")() if "phases_ns" in self._spoil else {}

    def take_pictures(self, pixels: Any) -> None:
        self.__getattr__("take_pictures")(pixels)


def _forgets_nothing(self: Any, ids: Any, mask: Any = None) -> Any:
    tail = self.__dict__.get("tail")
    given = self._session.start(ids if tail is None else np.concatenate((tail, ids[:, len(tail[0]) :]), axis=1))
    self.tail = given[:, None]
    return given


SPOILT: dict[str, dict[str, Any]] = {
    "check_placement": {"placement": lambda self: Placement("cpu", "gpu")},
    "check_compute_precision": {"compute_precision": lambda self: "bf16"},
    "check_threads": {"threads": lambda self: 2},
    "check_counts": {"step": lambda self, tokens: self._session.step(tokens % 1000) + 10**6},
    "check_tokens": {"step": lambda self, tokens: self._session.step(tokens) ^ 1},
    "check_reset": {"start": _forgets_nothing},
    "check_natural_ends": {"step": lambda self, tokens: np.maximum(self._session.step(tokens), 5) ^ 1},
    "check_teacher_forcing": {"step": lambda self, tokens: self._session.step(np.full_like(tokens, 9))},
}


class Spoilt:
    """A backend whose sessions have one thing spoilt, or that opens what is not there."""

    def __init__(self, backend: Any, spoil: dict[str, Any], *, opens_anything: bool = False) -> None:
        self._backend, self._spoil, self._opens_anything = backend, spoil, opens_anything

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open(self, artifact: Any, device: str, options: SessionOptions) -> Any:
        if self._opens_anything:
            try:
                return self._backend.open(artifact, device, options)
            except CannotRunError:
                artifact, device = subject_of("openvino-t5").artifact, "cpu"
        return Wrong(self._backend.open(artifact, device, options), self._spoil)


@pytest.mark.parametrize("name", SPOILT)
def test_a_broken_promise_is_noticed(name: str) -> None:
    sound = subject_of("openvino-t5")
    broken = replace(sound, backend=Spoilt(sound.backend, SPOILT[name]))  # type: ignore[arg-type]  # passes calls on
    check = getattr(testing, name)
    check(sound)
    with pytest.raises(testing.ConformanceError):
        check(broken)


#: What a session does with the pictures that it is given, and what the check says of it.
DECEIVES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "looks at none": (lambda self, pixels: self._session.take_pictures(_black(pixels)), "another picture before"),
    "takes any": (lambda self, pixels: pixels and self._session.take_pictures(_known(pixels)), "does not take"),
}


def _black(pixels: Any) -> Any:
    return {name: 0 * one if name == "pixel_values" else one for name, one in pixels.items()}


def _known(pixels: Any) -> Any:
    return pixels if "pixel_values" in pixels else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", DECEIVES)
def test_a_session_that_does_not_look_at_its_pictures_is_noticed(name: str) -> None:
    sound = subject_of("openvino-pictures")
    take, said = DECEIVES[name]
    spoil = {"take_pictures": take, "phases_ns": lambda self: self._session.phases_ns()}
    broken = replace(sound, backend=Spoilt(sound.backend, spoil))  # type: ignore[arg-type]  # passes calls on
    with pytest.raises(testing.ConformanceError, match=said):
        testing.check_pictures(broken)


def test_a_backend_that_falls_back_to_the_cpu_is_noticed() -> None:
    sound = subject_of("openvino-t5")
    if all(status.available for status in sound.backend.devices()):
        pytest.skip("every device that OpenVINO knows is here")
    opening = Spoilt(sound.backend, {}, opens_anything=True)
    broken = replace(sound, backend=opening)  # type: ignore[arg-type]  # passes calls on, as above
    with pytest.raises(testing.ConformanceError, match="absent, yet"):
        testing.check_absent_devices_are_refused(broken)
    with pytest.raises(testing.ConformanceError, match="cut in half"):
        testing.check_damaged_artifact(broken)
