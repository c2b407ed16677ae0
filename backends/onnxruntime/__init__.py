"""ONNX Runtime, its CUDA and QNN execution providers, and ONNX Runtime GenAI."""

__all__: tuple[str, ...] = ()
