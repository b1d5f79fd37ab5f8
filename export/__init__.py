"""From an artifact to a parity-checked ONNX release in a Triton model repository."""
