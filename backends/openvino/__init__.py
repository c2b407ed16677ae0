"""OpenVINO, OpenVINO GenAI and the NPU plugin."""

__all__: tuple[str, ...] = ()
