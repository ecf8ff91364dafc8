"""The contrastive loss of M_RAG (journal version, section IV-A)."""

from __future__ import annotations

import torch
from torch import Tensor


def contrastive_loss(scores: Tensor, owner: Tensor, positive: Tensor, tau: float) -> Tensor:
    """Sum over positives p in P_q of -log( exp(<q,p>/tau) / sum over p' in P_q and N_q of exp(<q,p'>/tau) ).

    Each positive is a term of its own, and every term's denominator runs over all of P_q and N_q. It differs from
    sentence-transformers' ``MultipleNegativesRankingLoss``, which draws negatives from other queries of the batch: a
    column of the same type or a tuple of the same value would become a false negative there.

    Args:
        scores: Shape (m,), inner products <q, p'> of unit vectors, all queries' candidates one after the other.
        owner: Shape (m,), which query each score belongs to, 0 to n - 1.
        positive: Shape (m,), boolean, whether the candidate is in P_q.
        tau: Temperature.

    Returns:
        Scalar: the mean over the n queries of their sums.
    """
    logits = scores / tau
    n = int(owner.max()) + 1
    top = torch.full((n,), -torch.inf, dtype=logits.dtype, device=logits.device)
    top = top.scatter_reduce(0, owner, logits.detach(), reduce="amax")
    total = torch.zeros(n, dtype=logits.dtype, device=logits.device)
    total = total.index_add(0, owner, (logits - top[owner]).exp())
    log_probs = logits - (top + total.log())[owner]
    return -log_probs[positive].sum() / n
