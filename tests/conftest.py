"""Settings that must be in the environment before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import torch

torch.set_num_threads(1)
