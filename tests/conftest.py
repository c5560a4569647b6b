"""Where there is no GPU, Triton's interpreter runs the Triton kernels; it is chosen when Triton is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
