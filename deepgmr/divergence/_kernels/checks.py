"""What can be said about arguments from their shapes and types, and whether their numbers may be looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from deepgmr.errors import InvalidMixture


def values_visible() -> bool:
    """Whether numbers can be looked at here: not while compiling, and not under a functorch transform."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None


def wide_type(tensor: Tensor) -> torch.dtype:
    """float64, or the tensor's own type on a device that has none."""
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def check_alike(*tensors: Tensor) -> None:
    """Raise `InvalidMixture` unless the tensors share floating dtype, device and last dimension, and broadcast."""
    first = tensors[0]
    for other in tensors:
        if not other.is_floating_point():
            raise InvalidMixture(f"parameters must be floating point, got {other.dtype}; convert with .float()")
        if other.dtype != first.dtype or other.device != first.device:
            raise InvalidMixture(
                f"both sides must share dtype and device, got {first.dtype} on {first.device} and {other.dtype} on "
                f"{other.device}; convert one with .to(...)"
            )
        if other.shape[-1] != first.shape[-1]:
            raise InvalidMixture(
                f"both sides must live in the same dimension, got means {tuple(first.shape)} and "
                f"{tuple(other.shape)}; compare Gaussians of one dimension"
            )
        broadcast_batches(first.shape[:-1], other.shape[:-1])


def broadcast_batches(one: torch.Size, other: torch.Size) -> torch.Size:
    """The common batch shape. Raises `InvalidMixture` naming both if there is none."""
    if one == other:
        return one
    try:
        return torch.broadcast_shapes(one, other)
    except RuntimeError:
        raise InvalidMixture(
            f"the batch shapes {tuple(one)} and {tuple(other)} do not broadcast; give both sides the same batch, or "
            "insert dimensions into one"
        ) from None


def check_shapes(means: Tensor, covariances: Tensor) -> None:
    """Raise `InvalidMixture` unless the covariances are full, diagonal or isotropic for these means."""
    d = means.shape[-1] if means.ndim else 0
    full = covariances.ndim == means.ndim + 1
    tail = tuple(covariances.shape[-2:] if full else covariances.shape[-1:])
    if d == 0 or covariances.ndim not in (means.ndim, means.ndim + 1) or tail not in ((d, d), (d,), (1,)):
        raise InvalidMixture(
            "means (*B, d) go with covariances full (*B, d, d), diagonal (*B, d) or isotropic (*B, 1), d at least "
            f"one; got means {tuple(means.shape)} and covariances {tuple(covariances.shape)}"
        )
    if covariances.dtype != means.dtype or covariances.device != means.device:
        raise InvalidMixture(
            f"means are {means.dtype} on {means.device} but covariances {covariances.dtype} on "
            f"{covariances.device}; convert one with .to(...)"
        )
    broadcast_batches(means.shape[:-1], covariances.shape[:-2] if full else covariances.shape[:-1])
