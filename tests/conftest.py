"""What holds for all tests."""

import torch

# the networks here are so small that threads only wait for each other, and for minutes where
# another process wants the processor too
torch.set_num_threads(1)
