"""CTranslate2 with its own generation loop: encoder-decoders and decoder-only models, on the CPU."""
