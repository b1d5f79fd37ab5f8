"""What holds for all tests."""

import os
import sys
from pathlib import Path

import torch

# where `make test` prepares Triton; so a bare pytest finds it too
os.environ.setdefault("BANDSTOP_HOME", str(Path(sys.prefix) / "bandstop"))

# as the command line has it: ONNX Runtime shall not report what it runs
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# the networks here are so small that threads only wait for each other, and for minutes where
# another process wants the processor too
torch.set_num_threads(1)
