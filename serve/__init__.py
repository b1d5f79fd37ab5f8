"""Start a real Triton Inference Server on a model repository."""
