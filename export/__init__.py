"""Turn an artifact into a parity-checked ONNX release and publish it into a Triton model repository."""
