"""A backend for slmbench: Llama in plain NumPy. A whole package, to start your own from."""

import json
import time

import numpy as np

from slmbench.backend import ArtifactSpec, DeviceStatus, Placement, SessionOptions
from slmbench.errors import BadInputError, CannotRunError


class NumpyBackend:
    name = engine = "numpy"
    distributions = ("numpy", "safetensors", "threadpoolctl")
    options_type = SessionOptions
    attention_paths = ()

    def devices(self):
        return [DeviceStatus("cpu", "NumPy", True, f"NumPy {np.__version__}")]

    def artifact_specs(self, checkpoint, precision, device):
        takes = checkpoint.architecture == "llama" and precision == "fp32" and device == "cpu"
        return [ArtifactSpec(format="torch", exporter="none")] if takes else []

    def refusal(self, checkpoint, spec, options, device):
        if device != "cpu" or options.compute_precision != "fp32":
            return f"NumPy computes in fp32 on the cpu, not in {options.compute_precision} on the {device}"
        return None if checkpoint.architecture == "llama" else f"only Llama is here, not {checkpoint.architecture}"

    def open(self, artifact, device, options):
        if reason := self.refusal(artifact.manifest.checkpoint, artifact.manifest.spec, options, device):
            raise CannotRunError(reason)
        try:
            return NumpySession(artifact, options)
        except (OSError, ValueError, KeyError) as error:
            raise CannotRunError(f"{artifact.folder}: not a Llama that NumPy can read: {error}") from error


class NumpySession:
    def __init__(self, artifact, options):
        from safetensors.numpy import load_file
        from threadpoolctl import threadpool_limits

        begin = time.perf_counter_ns()
        self.limits = threadpool_limits(options.threads or 1)
        config = json.loads((artifact.folder / "config.json").read_text())
        self.epsilon = np.float32(config.get("rms_norm_eps", 1e-6))
        self.sizes = artifact.manifest.checkpoint.geometry
        self.eos = list(artifact.manifest.checkpoint.eos_token_ids)
        exponents = np.tile(np.arange(0, 1, 2 / self.sizes.head_dim), 2)
        self.frequencies = config["rope_parameters"]["rope_theta"] ** -exponents
        weights = load_file(artifact.folder / "model.safetensors")
        prefixes = [f"model.layers.{layer}." for layer in range(self.sizes.decoder_layers)]
        self.layers = [{k.split(".")[-2]: w for k, w in weights.items() if k.startswith(p)} for p in prefixes]
        self.embedding, self.last_norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        self.head = weights.get("lm_head.weight", self.embedding)
        self.phases = {"load": time.perf_counter_ns() - begin}

    def reserve(self, batch, input_tokens, output_tokens):
        if batch != 1:
            raise BadInputError(f"one prompt at a time, {batch} are asked")
        self.longest, self.room, self.left = input_tokens, output_tokens, 0
        shape = (2, self.sizes.kv_heads, input_tokens + output_tokens, self.sizes.head_dim)
        self.cache = [np.zeros(shape, np.float32) for _ in self.layers]

    def start(self, input_ids, attention_mask=None):
        self.past, self.left = 0, self.room
        return self._read(input_ids[0], self.longest)

    def step(self, tokens):
        return self._read(tokens, 1)

    def _read(self, tokens, most):
        if len(tokens) > most or not self.left:
            raise BadInputError(f"{len(tokens)} tokens after {self.past} exceed what is reserved")
        self.left -= 1
        size, count, total = self.sizes.head_dim, len(tokens), self.past + len(tokens)
        angles = np.outer(np.arange(self.past, total), self.frequencies)
        cos, sin = np.float32(np.cos(angles)), np.float32(np.sin(angles))
        rotate = lambda x: x * cos + np.concatenate((-x[..., size // 2 :], x[..., : size // 2]), -1) * sin
        hidden, future = self.embedding[tokens], np.arange(total)[None] > np.arange(self.past, total)[:, None]
        for w, (keys, values) in zip(self.layers, self.cache, strict=True):
            x = self._norm(hidden, w["input_layernorm"])
            q, k, v = ((x @ w[f"{name}_proj"].T).reshape(count, -1, size).swapaxes(0, 1) for name in "qkv")
            keys[:, self.past : total], values[:, self.past : total] = rotate(k), v
            grouped = rotate(q).reshape(len(keys), -1, count, size)
            scores = grouped @ keys[:, None, :total].swapaxes(2, 3) / np.sqrt(np.float32(size))
            share = np.exp(np.where(future, np.float32(-np.inf), scores - scores.max(-1, keepdims=True)))
            mixed = share / share.sum(-1, keepdims=True) @ values[:, None, :total]
            hidden = hidden + mixed.reshape(-1, count, size).swapaxes(0, 1).reshape(count, -1) @ w["o_proj"].T
            x = self._norm(hidden, w["post_attention_layernorm"])
            gate, up = x @ w["gate_proj"].T, x @ w["up_proj"].T
            hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ w["down_proj"].T
        self.past = total
        logits = self._norm(hidden[-1], self.last_norm) @ self.head.T
        logits[self.eos] = -np.inf
        return logits.argmax(keepdims=True)

    def _norm(self, x, weight):
        return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)

    def placement(self):
        return Placement("cpu", "cpu")

    def compute_precision(self):
        return {"float32": "fp32"}.get(str(self.embedding.dtype), str(self.embedding.dtype))

    def threads(self):
        from threadpoolctl import threadpool_info

        return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    phases_ns = lambda self: {}
    attention_path = lambda self: "eager"
    load_phases_ns = lambda self: self.phases

    def close(self):
        self.limits.restore_original_limits()
        del self.layers, self.embedding, self.head
