"""Amplitudes in 256 levels, fine where they are small and coarse where they are large."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput

MU = 255  # as many levels above the first


def mu_law_encode(amplitude: Tensor) -> Tensor:
    r"""Mu-law levels of amplitudes, on the grid x = k/255.

    .. math:: k = \mathrm{round}\Bigl(255 \, \frac{1 + F(s)}{2}\Bigr), \qquad
              F(s) = \mathrm{sign}(s) \frac{\log(1 + 255 |s|)}{\log 256}

    There are as many levels below zero as above, so that no level is zero: amplitudes next to zero have the levels
    127 and 128, and zero itself has 128. This is the smooth law, of which the telephone's is an approximation by
    straight lines.

    Args:
        amplitude: s in [-1, 1], of any shape and floating-point type.

    Returns:
        x = k/255 with k = 0..255, of the same shape and type.

    Raises:
        InvalidInput: an amplitude that is NaN or outside [-1, 1].

    Example:
        >>> mu_law_encode(torch.tensor([-1.0, -0.01, 0.0, 0.01, 1.0])) * 255
        tensor([  0.,  98., 128., 157., 255.])

    Reference:
        ITU-T: Recommendation G.711, pulse code modulation of voice frequencies (1988); van den Oord, Dieleman, Zen,
        Simonyan, Vinyals, Graves, Kalchbrenner, Senior, Kavukcuoglu: WaveNet, a generative model for raw audio (2016).
    """
    bad = ~(amplitude.abs() <= 1)
    if bool(bad.any()):
        raise InvalidInput(
            "no amplitude",
            where="amplitude",
            value=f"{amplitude[bad][0].item():.6g}",
            expected="numbers in [-1, 1]",
            cure="s / 32768 for 16-bit samples",
        )
    companded = amplitude.sign() * (MU * amplitude.abs()).log1p() / math.log1p(MU)
    return ((1 + companded) * (MU / 2)).round() / MU


def mu_law_decode(x: Tensor) -> Tensor:
    r"""Amplitudes in the middle of mu-law levels: the inverse of the law without its rounding.

    .. math:: s = \mathrm{sign}(c) \frac{256^{|c|} - 1}{255}, \qquad c = 2x - 1

    Args:
        x: k/255, or any number in [0, 1], of any shape and floating-point type.

    Returns:
        Amplitudes in [-1, 1], of the same shape and type.

    Example:
        >>> x = torch.arange(256.0) / 255
        >>> torch.equal(mu_law_encode(mu_law_decode(x)), x)
        True

    Reference:
        ITU-T: Recommendation G.711, pulse code modulation of voice frequencies (1988).
    """
    companded = 2 * x - 1
    return companded.sign() * torch.expm1(companded.abs() * math.log1p(MU)) / MU
