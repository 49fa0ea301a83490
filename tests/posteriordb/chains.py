"""NUTS on the posteriors of posteriordb."""

import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.mcmc.adaptation import BlockMassMatrix

from tests.posteriordb.variational import laplace, mode


class FixedMass(BlockMassMatrix):
    """Inverse mass matrix that is a given covariance.

    Pyro adapts it with a pull towards 0.001, as Stan does; where a latent has a variance of 5e-5 and another one of
    0.2, with a correlation of -0.999, that costs minutes.

    Args:
        covariance: of all unconstrained latents, flattened in the order of their names.
    """

    def __init__(self, covariance):
        super().__init__()
        self.covariance = covariance

    def configure(self, mass_matrix_shape, *args, **kwargs):
        super().configure(mass_matrix_shape, *args, **kwargs)
        (sites,) = mass_matrix_shape  # full_mass=True: one block
        self.inverse_mass_matrix = {sites: self.covariance}


def covariance(posterior):
    """Covariance of the Laplace approximation, sites in the order of their names."""
    guide = laplace(posterior)
    factor = (guide.scale[..., None] * guide.scale_tril).detach()
    places = torch.arange(float(guide.latent_dim))
    pieces = sorted((site["name"], place.reshape(-1)) for site, place in guide._unpack_latent(places))
    order = torch.cat([place for _, place in pieces]).long()
    return (factor @ factor.T)[order][:, order]


def run_nuts(posterior, *, num_samples, warmup_steps, num_chains):
    """A finished ``MCMC``, its chains one after the other where there are few cores."""
    options = {"full_mass": True, "jit_compile": True, "ignore_jit_warnings": True}
    if posterior.has_useful_mode:
        options |= {"init_strategy": init_to_value(values=mode(posterior)), "adapt_mass_matrix": False}
    kernel = NUTS(posterior.model, **options)
    if posterior.has_useful_mode:
        kernel.mass_matrix_adapter = FixedMass(covariance(posterior))
    chains = MCMC(
        kernel,
        num_samples=num_samples,
        warmup_steps=warmup_steps,
        num_chains=num_chains,
        disable_progbar=True,
    )
    chains.run(*posterior.batch)
    return chains
