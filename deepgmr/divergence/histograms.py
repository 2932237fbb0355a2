"""Divergences between histograms and between coins, and a settlement of torch's two functions of that name.

The support rule, everywhere in this room: a bin that p leaves empty costs nothing, whatever q holds there (0 log 0/q =
0, also for q = 0); a bin that p fills and q leaves empty costs infinity. Nothing is smoothed: add your own floor to q if
infinity is not wanted. Values are nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepgmr.divergence._kernels.checks import values_visible
from deepgmr.errors import InvalidInput


def kl_histograms(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (*B) of histograms (*B, n) that sum to one. Exact; non-negative; infinite off q's support.

    One divergence, three ways to spell it in torch; all of these are equal:

    >>> kl_histograms(p, q)                                                             # here: p, then q, plain numbers
    >>> kl_divergence(Categorical(probs=p), Categorical(probs=q))                       # torch.distributions: the same order
    >>> torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)                # the loss: q first, and its logarithm

    `torch.nn.functional.kl_div(input, target)` differs from `torch.distributions.kl_divergence(p, q)` in four ways:

    - argument order: `input` is the model q and `target` the data p, so the call reads kl_div(q, p) for KL(p || q);
    - logs: `input` must be log q. `target` is p itself, or log p with `log_target=True`;
    - reduction: the default "mean" divides by the number of *elements*, bins included, which is no divergence; "batchmean"
      divides the sum by the size of the first dimension; "none" returns one term a bin, still to be summed;
    - support: with q = 0 the input is -inf and a bin with p = q = 0 becomes NaN; here and in `kl_divergence` it is 0.

    Raises `InvalidInput` for shapes that do not broadcast, negative or non-finite entries, and sums other than one.
    """
    _check_histograms(p, q)
    return _terms(p, q).sum(-1)


def js_histograms(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence (*B) of histograms (*B, n). Exact, symmetric, always within [0, log 2].

    Its square root is a metric (Endres and Schindelin 2003). Raises as `kl_histograms`.
    """
    _check_histograms(p, q)
    middle = 0.5 * (p + q)
    return 0.5 * (_terms(p, middle) + _terms(q, middle)).sum(-1)


def pairwise_kl_histograms(p: Tensor, q: Tensor) -> Tensor:
    """KL(p_i || q_j) of every pair (N, M), from histograms (N, n) and (M, n). Exact; infinite off the support.

    One matrix product: sum_k p_ik log p_ik is appended to p as a last column and ones to log q, so nothing of the size of
    the output is ever held besides the output. Logarithms are taken of the ratio to the uniform histogram, which changes
    nothing and keeps float32 exact to about 1e-7 times the entropy differences; rounding may leave values of -1e-7.

    An empty bin of q enters the product as a huge finite cost and whatever exceeds every possible divergence is infinity
    afterwards. Entries of p below 1e-30 (float32) or 1e-290 (float64) count as empty. Raises as `kl_histograms`.
    """
    if p.ndim != 2 or q.ndim != 2 or p.shape[-1] != q.shape[-1]:
        raise InvalidInput(f"need histograms (N, n) and (M, n), got {tuple(p.shape)} and {tuple(q.shape)}")
    _check_histograms(p, q, broadcast=False)
    empty_cost, least = (1e300, 1e-290) if p.dtype == torch.float64 else (1e36, 1e-30)
    n = p.shape[-1]
    p = torch.where(p > least, p, 0)
    # One buffer a side, filled in place of concatenating; rows are padded to whole vectors of sixteen for the product.
    width = (n + 1 + 15) // 16 * 16
    left, right = p.new_zeros(len(p), width), q.new_zeros(len(q), width)
    left = torch.cat([p, torch.special.xlogy(p, p * n).sum(-1, keepdim=True), left[:, n + 1 :]], dim=-1)
    cost = -torch.where(q > 0, (torch.where(q > 0, q, 1) * n).log(), -empty_cost)
    right = torch.cat([cost, torch.ones_like(q[:, :1]), right[:, n + 1 :]], dim=-1)
    out = left @ right.T
    if values_visible() and not bool((q == 0).any()):
        return out
    if out.requires_grad or not values_visible():
        return torch.where(out > _threshold(p.dtype), math.inf, out)
    for block in out.split(max(1, (1 << 20) // max(1, out.shape[1]))):
        block.masked_fill_(block > _threshold(p.dtype), math.inf)
    return out


def kl_bernoulli(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (*B) of coins that show heads with probability p and q. Exact; infinite off q's support.

    p log p/q + (1 - p) log (1 - p)/(1 - q), the second logarithm by log1p. Raises `InvalidInput` outside [0, 1].
    """
    _check_floating(p, q)
    _broadcastable(p.shape, q.shape)
    if values_visible() and not bool(((p >= 0) & (p <= 1)).all() & ((q >= 0) & (q <= 1)).all()):
        raise InvalidInput(
            f"probabilities must lie in [0, 1] and be no NaN, got shapes {tuple(p.shape)}, {tuple(q.shape)}"
        )
    heads = _terms(p, q)
    p, q = torch.broadcast_tensors(p, q)
    tails, possible = p < 1, q < 1
    safe_p, safe_q = torch.where(tails, p, 0), torch.where(possible, q, 0)
    value = (1 - safe_p) * (torch.log1p(-safe_p) - torch.log1p(-safe_q))
    return heads + torch.where(tails, torch.where(possible, value, math.inf), 0)


def _terms(p: Tensor, q: Tensor) -> Tensor:
    """p log p/q by the support rule, with finite gradients wherever the value is finite."""
    p, q = torch.broadcast_tensors(p, q)
    filled, possible = p > 0, q > 0
    safe_p, safe_q = torch.where(filled, p, 1), torch.where(possible, q, 1)
    value = safe_p * (safe_p.log() - safe_q.log())
    return torch.where(filled, torch.where(possible, value, math.inf), 0)


def _threshold(dtype: torch.dtype) -> float:
    return 1e4  # above -log of the smallest positive number of either type, below the cost of any empty bin


def _check_floating(*tensors: Tensor) -> None:
    if any(not t.is_floating_point() for t in tensors) or len({t.dtype for t in tensors}) > 1:
        raise InvalidInput(f"need two tensors of one floating type, got {', '.join(str(t.dtype) for t in tensors)}")


def _broadcastable(one: torch.Size, other: torch.Size) -> None:
    try:
        torch.broadcast_shapes(one, other)
    except RuntimeError:
        raise InvalidInput(
            f"shapes {tuple(one)} and {tuple(other)} do not broadcast; give both the same batch"
        ) from None


def _check_histograms(p: Tensor, q: Tensor, *, broadcast: bool = True) -> None:
    _check_floating(p, q)
    if p.ndim < 1 or q.ndim < 1 or p.shape[-1] != q.shape[-1] or p.shape[-1] == 0:
        raise InvalidInput(f"histograms need the same bins, at least one, got {tuple(p.shape)} and {tuple(q.shape)}")
    if broadcast:
        _broadcastable(p.shape, q.shape)
    if not values_visible():
        return
    for name, h in (("p", p), ("q", q)):
        h = h.detach()
        tolerance = 1e-5 if h.dtype == torch.float64 else 1e-4
        error = (h.sum(-1) - 1).abs()
        if bool((h >= 0).all() & (error <= tolerance).all()):
            continue
        if bool((~torch.isfinite(h)).any()):
            raise InvalidInput(f"{name} {tuple(h.shape)} holds NaN or infinite numbers; drop those histograms first")
        if bool((h < 0).any()):
            raise InvalidInput(f"{name} {tuple(h.shape)} must not be negative, the least is {h.min().item():.3g}")
        raise InvalidInput(
            f"the histograms of {name} {tuple(h.shape)} must sum to one, off by up to {error.max().item():.3g}; divide by "
            "their sums"
        )
