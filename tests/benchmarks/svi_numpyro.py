"""NumPyro's part in `tests.benchmarks.svi_step`: the pair of `svi_pairs` from the same weights."""

from __future__ import annotations

import os

from tests.benchmarks.svi_pairs import CHUNK, RATE, Competitor, batch, networks


def numpyro_competitors(cell):
    """Its jitted update, and several updates in one call; none if NumPyro is not installed."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
        from numpyro.optim import Adam
    except ImportError:
        return []
    encoder, decoder = (_layers(network) for network in networks(cell))
    Z, B, K = cell[2:]

    def network(layers, x):
        *hidden, (weight, bias) = layers
        for w, b in hidden:
            x = jnp.tanh(x @ w + b)
        return x @ weight + bias

    def model(x):
        layers = numpyro.param("decoder", decoder)
        with numpyro.plate("data", B):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(Z), jnp.ones(Z)).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=network(layers, z)).to_event(1), obs=x)

    def guide(x):
        layers = numpyro.param("encoder", encoder)
        with numpyro.plate("data", B):
            loc, scale = jnp.split(network(layers, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(scale)).to_event(1))

    loss = Trace_ELBO() if K == 1 else RenyiELBO(alpha=0.0, num_particles=K)
    svi = SVI(model, guide, Adam(RATE), loss)
    x = jnp.asarray(batch(cell).numpy())
    states = dict.fromkeys(("update", "loop"), svi.init(jax.random.PRNGKey(0), x))
    update = jax.jit(svi.update)

    @jax.jit
    def loop(state, x):
        def body(i, carry):
            state, losses = carry
            state, loss = svi.update(state, x)
            return state, losses.at[i].set(loss)

        return jax.lax.fori_loop(0, CHUNK, body, (state, jnp.zeros(CHUNK)))

    def updates(n):
        losses = []
        for _ in range(n):
            states["update"], loss = update(states["update"], x)
            losses.append(loss)
        jax.block_until_ready(states["update"])
        return [float(loss) for loss in losses]

    def loops(n):
        losses = []
        for _ in range(n // CHUNK):
            states["loop"], found = loop(states["loop"], x)
            losses += found.tolist()
        jax.block_until_ready(states["loop"])
        return losses

    return [Competitor("NumPyro update", updates), Competitor("NumPyro fori_loop", loops, CHUNK)]


def _layers(network):
    linear = [layer for layer in network if hasattr(layer, "weight")]
    return [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()) for layer in linear]
