"""Models for other programs: timm directories and ONNX."""
