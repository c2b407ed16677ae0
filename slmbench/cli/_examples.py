"""What the help of each command ends with: commands that can be copied. Tests parse every one."""

from __future__ import annotations

#: Command → examples, without the leading ``slmbench``.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "run",
        "run --model my-model.gguf --input-tokens 512 --output-tokens 128",
        "run --pair mu-330m,dec-330m --precision int8,int4",
        "run --model ./my-checkpoint --quality --backend openvino",
        "run --dry-run --suite return-of-the-encoder",
    ),
    "compare": ("compare results/before results/after", "compare results/new@base results/new@head --metric ttft"),
    "check": (
        "check --baseline baseline.json results/new",
        "check --baseline results/new@base results/new@head --gate 3%",
    ),
    "baseline": ("baseline save results/good baseline.json", "baseline show baseline.json"),
    "history": ("history results --metric tpot", "history nightly/ --where model=dec-small --plot history.html"),
    "table": ("table results/new", "table results/new --markdown"),
    "export": ("export mu-small --format openvino --precision int8", "export ./my-checkpoint --format gguf"),
    "inspect": ("inspect my-model.gguf", "inspect ./folder-with-onnx --json"),
    "models": ("models", "models --architectures"),
    "suites": ("suites", "suites show quick"),
    "devices": ("devices", "devices --backend openvino --json"),
    "limits": ("limits --backend openvino", "limits --backend onnxruntime --threads 4"),
    "doctor": ("doctor", "doctor --json"),
    "calibrate": ("calibrate", "calibrate --like baseline.json"),
    "cache": ("cache list", "cache clean --damaged"),
    "fleet": ("fleet scheduler", "fleet worker --scheduler tcp://192.168.1.2:8786 --name tablet"),
    "explain": ("explain mu-330m", "explain dec-small --input-tokens 1024"),
}


def epilog(command: str) -> str:
    """Return the end of a command's help: a line for each example, as typer's help keeps lines apart."""
    return "\n\n".join(["Examples:", *(f"  slmbench {line}" for line in EXAMPLES[command])])
