"""Mixtures of diagonal normals with random parameters, and their density written out, without Pyro."""

import math

import torch

K, D = 7, 3


def parameters(seed, *, batch=(), smallest=0.3):
    """Random logits, means and scales in float64; scales between one and two times ``smallest``."""
    torch.manual_seed(seed)
    logits, loc = torch.randn(*batch, K).double(), 2 * torch.randn(*batch, K, D).double()
    return logits, loc, smallest * (1 + torch.rand(*batch, K, D).double())


def by_hand(logits, loc, scale, z):
    """log sum_k pi_k prod_d N(z_d | mu_kd, s_kd^2), each factor written out."""
    residual = (z.unsqueeze(-2) - loc) / scale
    log_normal = (-0.5 * residual**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return (log_normal + logits.log_softmax(-1)).logsumexp(-1)
