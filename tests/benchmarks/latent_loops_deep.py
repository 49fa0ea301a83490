"""Losses by hand, as in `latent_loops`, of the models with several latent variables: layers, and steps in time."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.functional import softplus

from tests.benchmarks.latent_loops import centered, divergence, error, halves


def ladder_vae(program, annealed):
    """One pass down: h is the same in model and guide, since it follows from the draws.

    Args:
        program: the program.
        annealed: steps in which the weight of the divergence rises from 0 to 1.
    """
    done = itertools.count()
    stem = nn.Sequential(nn.Flatten(), *program.encoder.stem[1:])
    activation, mlp = program.decoder
    decoder = nn.Sequential(activation, *centered(mlp.layers, program))
    blocks, posteriors, conditionals = program.blocks, program.posteriors, program.conditionals

    def loss_of(x):
        d, features = stem(x), []
        for step in program.encoder.steps:
            d = d + step.branch(d)
            features.append(d)
        h, loss = program.top, 0.0
        for i in reversed(range(len(blocks))):
            shift, raw = posteriors[i].head(features[i]).chunk(2, -1)
            precision = softplus(raw)
            if i < len(conditionals):
                p_loc, p_scale = halves(conditionals[i].head(h), conditionals[i].scale_floor)
                variance = p_scale.square()
                ratio = 1 + variance * precision
                moved = variance * (shift - precision * p_loc) / ratio
                loc, scale = p_loc + moved, p_scale * ratio.rsqrt()
                loss = loss + 0.5 * (moved.square() / variance + 1 / ratio - 1 + ratio.log()).sum()
            else:
                ratio = 1 + precision
                loc, scale = shift / ratio, ratio.rsqrt()
                loss = loss + divergence(loc, scale)
            h = h + blocks[i].second(loc + scale * torch.randn_like(loc))
            h = h + blocks[i].branch(h)
        loss = (min(next(done) / annealed, 1.0) * loss + error(decoder(h), x.flatten(1))) / len(x)
        return loss, loss

    return loss_of


def draw(program):
    """Without attention; the decoder runs once."""
    encoder, decoder, head = program.encoder, program.decoder, program.posterior.head
    write, floor = program.write.linear, program.posterior.scale_floor
    with torch.no_grad():
        program.first_canvas += program.observation.offset

    def lstm(cell, h, kept, *inputs):
        gates = cell.of_inputs(torch.cat(inputs, -1)) + cell.of_state(h)
        forget, let_in, let_out, new = gates.chunk(4, -1)
        kept = forget.sigmoid() * kept + let_in.sigmoid() * new.tanh()
        return let_out.sigmoid() * kept.tanh(), kept

    def loss_of(x):
        x = x.flatten(1)
        size = len(x), -1
        canvas = program.first_canvas.flatten().expand(size)
        (g, g_cell), (h, h_cell) = (
            [state.expand(size) for state in cell.first.unbind()] for cell in (encoder, decoder)
        )
        loss = 0.0
        for _ in program.sites:
            g, g_cell = lstm(encoder, g, g_cell, x, x - canvas.sigmoid(), h)
            loc, scale = halves(head(g), floor)
            loss = loss + divergence(loc, scale)
            h, h_cell = lstm(decoder, h, h_cell, loc + scale * torch.randn_like(loc))
            canvas = canvas + write(h)
        loss = (loss + error(canvas, x)) / len(x)
        return loss, loss

    return loss_of
