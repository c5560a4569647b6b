"""Where there is no GPU, Triton's interpreter runs the Triton kernels; it is chosen when Triton is first imported.

Tests that run side by side take no GPU from each other: every process has locks of its own.
"""

import importlib.util
import os
import tempfile

import torch

from tests.interpreter import prepare_language_once_a_launch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton"):
    prepare_language_once_a_launch()

os.environ["NSR_GPU_LOCKS"] = tempfile.mkdtemp(prefix="nsr-gpus-")
