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
    "suites": ("suites", "suites show quick", "suites schema"),
    "devices": ("devices", "devices --backend openvino --json"),
    "limits": ("limits --backend openvino", "limits --backend onnxruntime --threads 4"),
    "doctor": ("doctor", "doctor --json"),
    "calibrate": ("calibrate", "calibrate --like baseline.json"),
    "cache": ("cache list", "cache verify", "cache clean --damaged", "cache clean --all --dry-run"),
    "fleet": (
        "fleet certs certs",
        "fleet scheduler --host 192.168.1.2 --certs certs",
        "fleet worker --scheduler tls://192.168.1.2:8786 --certs certs --name tablet",
        "fleet status --scheduler tls://192.168.1.2:8786 --certs certs",
    ),
    "explain": ("explain mu-330m", "explain dec-small --input-tokens 1024"),
}


def epilog(command: str, part: str = "") -> str:
    """Return the end of the help of a command, or of one of its parts: a line for each example.

    An empty line between them: typer's help joins others.
    """
    lines = [line for line in EXAMPLES[command] if not part or line.split()[1:2] == [part]]
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  slmbench {line}" for line in lines)])
