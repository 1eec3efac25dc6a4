"""Where and in which arithmetic a model is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from workbench.errors import UsageError


def resolve_device(device: str) -> str:
    """`auto` as cuda where there is one, else cpu. Raises UsageError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        there = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"device {device!r} is not available; this machine has {there}")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` as bf16 where the hardware multiplies bf16 matrices (AMX on a CPU, any recent GPU), else fp32."""
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def arithmetic(dtype: str, device: str) -> AbstractContextManager[object]:
    """The context of a forward pass: bf16 mixed precision, or plain fp32."""
    if dtype == "bf16":
        return torch.autocast(device.partition(":")[0], torch.bfloat16)
    return nullcontext()
