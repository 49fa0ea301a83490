"""Losses of the small configs as a person writes them for one model in bare torch; for `tests.benchmarks.latent_steps`.

Each function takes a program, whose layers it uses (those of torch, not our wrappers around them), and returns
`loss(*batch)`: a mean over the data to be descended and the one to be shown, the same but for `dreg`. Noise is drawn
with the shapes and in the order of the guide, so that equal seeds give equal losses. The observation's offset, a
constant, is added to the last bias where there is one for each pixel.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import one_hot, softplus


def step_by_hand(program, loss_of, optimizer, clip_norm):
    """A step of the loop that anyone would write, on a copy of the program."""
    program = copy.deepcopy(program)
    parameters = list(program.parameters())
    loss_of, optimizer = loss_of(program), optimizer(parameters)

    def step(*batch):
        loss, shown = loss_of(*batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        return shown.item()

    return step


def halves(head, floor):
    loc, raw = head.chunk(2, -1)
    return loc, floor + softplus(raw)


def divergence(loc, scale):
    """From a standard normal, summed."""
    return 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum()


def error(logits, x):
    return cross_entropy(logits, x, reduction="sum")


def dense(program):
    """Encoder with the head of the posterior, and decoder, of a VAE of multilayer perceptrons."""
    _, mlp, activation = program.encoder
    encoder = nn.Sequential(nn.Flatten(), *mlp.layers, activation, program.posterior.head)
    return encoder, centered(program.decoder.layers, program)


def centered(layers, program):
    with torch.no_grad():
        layers[-1].bias += program.observation.offset.flatten()
    return layers


def vae(program):
    encoder, decoder = dense(program)

    def loss_of(x):
        loc, scale = halves(encoder(x), program.posterior.scale_floor)
        z = loc + scale * torch.randn_like(loc)
        loss = (error(decoder(z), x.flatten(1)) + divergence(loc, scale)) / len(x)
        return loss, loss

    return loss_of


def conv_vae(program, annealed):
    done = itertools.count()
    stack, activation = program.encoder
    hidden, before, unstack = program.decoder
    encoder = nn.Sequential(stack.convolutions, nn.Flatten(), stack.head, activation, program.posterior.head)
    decoder = nn.Sequential(
        hidden, before, unstack.stem, nn.Unflatten(1, unstack.coarse_shape), unstack.convolutions
    )

    def loss_of(x):
        loc, scale = halves(encoder(x), program.posterior.scale_floor)
        z = loc + scale * torch.randn_like(loc)
        weight = min(next(done) / annealed, 1.0)
        likelihood = error(decoder(z) + program.observation.offset[0], x)
        loss = (likelihood + weight * divergence(loc, scale)) / len(x)
        return loss, loss

    return loss_of


def autoencoder(program):
    _, mlp = program.encoder
    network = nn.Sequential(nn.Flatten(), *mlp.layers, *centered(program.decoder.layers, program))

    def loss_of(x):
        loss = error(network(x), x.flatten(1)) / len(x)
        return loss, loss

    return loss_of


def iwae(program, num_particles):
    encoder, decoder = dense(program)

    def loss_of(x):
        loc, scale = halves(encoder(x), program.posterior.scale_floor)
        noise = torch.randn(num_particles, *loc.shape)
        z = loc + scale * noise
        log_ratio = (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
        logits = decoder(z)
        pixels = x.flatten(1).expand_as(logits)
        log_w = log_ratio - cross_entropy(logits, pixels, reduction="none").sum(-1)
        loss = math.log(num_particles) - log_w.logsumexp(0).mean()
        return loss, loss

    return loss_of


def dreg(program, num_particles):
    """The doubly reparameterised gradient by the usual hook on the draws."""
    encoder, decoder = dense(program)

    def loss_of(x):
        loc, scale = halves(encoder(x), program.posterior.scale_floor)
        z = loc + scale * torch.randn(num_particles, *loc.shape)
        stopped_loc, stopped_scale = loc.detach(), scale.detach()
        distance = ((z - stopped_loc) / stopped_scale).square()
        log_ratio = (0.5 * (distance - z.square()) + stopped_scale.log()).sum(-1)
        logits = decoder(z)
        pixels = x.flatten(1).expand_as(logits)
        log_w = log_ratio - cross_entropy(logits, pixels, reduction="none").sum(-1)
        with torch.no_grad():
            weights = log_w.softmax(0)
            shown = math.log(num_particles) - log_w.logsumexp(0).mean()
        z.register_hook(lambda gradient: weights.unsqueeze(-1) * gradient)
        return -(weights * log_w).sum() / len(x), shown

    return loss_of


def _mixture(z, log_weights, loc, scale):
    """log density of a mixture of normals, without the constant that log q has too."""
    distance = ((z.unsqueeze(-2) - loc) / scale).square()  # (batch, components, latent)
    return (log_weights - (0.5 * distance + scale.log()).sum(-1)).logsumexp(-1)


def gmvae(program):
    encoder, decoder = dense(program)
    prior = program.prior

    def loss_of(x):
        loc, scale = halves(encoder(x), program.posterior.scale_floor)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_q = -(0.5 * noise.square() + scale.log()).sum(-1)
        scales = prior.scale_floor + softplus(prior.raw_scale)
        log_p = _mixture(z, prior.logits.log_softmax(-1), prior.loc, scales)
        loss = (error(decoder(z), x.flatten(1)) + (log_q - log_p).sum()) / len(x)
        return loss, loss

    return loss_of


def vamp_vae(program):
    gated = program.encoder[1:]
    layers = [part for layer in gated for part in (layer.linear, nn.GLU())]
    encoder = nn.Sequential(nn.Flatten(), *layers, program.posterior.head)
    *gated, last = program.decoder.layers
    layers = [part for layer in gated for part in (layer.linear, nn.GLU())]
    decoder = centered(nn.Sequential(*layers, last), program)
    floor, v = program.posterior.scale_floor, program.prior.v

    def loss_of(x):
        loc, scale = halves(encoder(x), floor)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_q = -(0.5 * noise.square() + scale.log()).sum(-1)
        log_p = _mixture(z, -math.log(len(v)), *halves(encoder(v.clamp(0, 1)), floor))
        loss = (error(decoder(z), x.flatten(1)) + (log_q - log_p).sum()) / len(x)
        return loss, loss

    return loss_of


def cvae(program):
    _, mlp, activation = program.encoder
    encoder = nn.Sequential(nn.Flatten(), *mlp.layers, activation)
    joint, activation, head = program.posterior
    posterior = nn.Sequential(joint, activation, head.head)
    decoder = centered(program.decoder.layers, program)

    def loss_of(x, y):
        c = one_hot(y, program.num_classes).float()
        loc, scale = halves(posterior(torch.cat([encoder(x), c], -1)), head.scale_floor)
        z = loc + scale * torch.randn_like(loc)
        loss = (error(decoder(torch.cat([z, c], -1)), x.flatten(1)) + divergence(loc, scale)) / len(x)
        return loss, loss

    return loss_of
