"""OpenVINO, OpenVINO GenAI and the NPU plugin."""
