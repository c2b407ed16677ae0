"""What optimum-onnx exports in an environment of its own, measured as it is (`.ci/environments optimum_onnx`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("OPTIMUM_PYTHON" not in os.environ, reason="needs an interpreter that has optimum-onnx"),
]
#: Run by that interpreter: a transformers older than slmbench takes writes the checkpoint, and optimum exports it.
EXPORT = """
import sys
import torch, transformers
from optimum.exporters.onnx import main_export

kind, checkpoint, folder = sys.argv[1:]
torch.manual_seed(0)
sizes = {"vocab_size": 512, "pad_token_id": 0, "eos_token_id": 1}
if kind == "llama":
    sizes.update(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    sizes.update(num_key_value_heads=2, max_position_embeddings=512)
    auto, task = transformers.AutoModelForCausalLM, "text-generation-with-past"
else:
    sizes.update(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
    auto, task = transformers.AutoModelForSeq2SeqLM, "text2text-generation-with-past"
model = auto.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
for parameter in model.parameters():
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
model.save_pretrained(checkpoint)
main_export(checkpoint, folder, task=task, do_validation=False)
"""


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_its_graphs_are_measured_and_proven(kind: str, tmp_path: Path) -> None:
    checkpoint, graphs = tmp_path / "checkpoint", tmp_path / "graphs"
    done = subprocess.run(
        [os.environ["OPTIMUM_PYTHON"], "-c", EXPORT, kind, str(checkpoint), str(graphs)],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    asked = ["--model", str(graphs), "--reference", str(checkpoint), "--input-tokens", "16", "--output-tokens", "8"]
    slmbench = [sys.executable, "-P", "-m", "slmbench"]
    done = subprocess.run(
        [*slmbench, "run", *asked, "--repeat", "2", "--out", "run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = subprocess.run(
        [*slmbench, "table", "run", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (row,) = json.loads(told.stdout)
    assert (row["exporter"], row["backend"], row["agreement"]) == ("given", "onnxruntime", 1.0)
    assert row["ttft_s"] > 0
