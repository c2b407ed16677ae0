"""GGUF: llama.cpp's file format."""

__all__: tuple[str, ...] = ()
