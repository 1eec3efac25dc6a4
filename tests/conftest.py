"""No test asks the Hugging Face Hub anything. One thread, here and in every process that a test starts: the models are tiny, and on a
busy machine threads wait for each other far longer than they work."""

import os

import torch

from tests.browser import browser, visit  # noqa: F401

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)
