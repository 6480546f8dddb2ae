"""Settings that must be in the environment before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

import torch
from torchvision_import import declare_missing_operators

torch.set_num_threads(1)
declare_missing_operators()  # before lightning, which imports torchvision if there is one
