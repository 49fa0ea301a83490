"""Recursions of DRAW and convolutional DRAW written by hand, and programs that differ from them in one thing."""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

# ---- the recursions: one datum, one particle


def normal(value, loc, scale):
    return (-0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum()


def head(params, floor):
    loc, raw = params.chunk(2)
    return loc.flatten(), floor + (1 + raw.exp()).log().flatten()


def bernoulli(x, logits):
    return (x * logits.sigmoid().log() + (1 - x) * (1 - logits.sigmoid()).log()).sum()


def lstm(gates, cell):
    kept, let_in, let_out, new = gates.chunk(4)
    cell = kept.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * cell.tanh(), cell


def draw_by_hand(program, x, z):
    """log p(x, z1..zT) - log q(z1..zT | x) of one datum (*data_shape) and one draw, T vectors."""

    def step(cell, memory, *inputs):
        affine = cell.of_inputs.weight @ torch.cat(inputs) + cell.of_inputs.bias
        return lstm(affine + cell.of_state.weight @ memory[0], memory[1])

    encoder, decoder = program.encoder.first, program.decoder.first
    logits = (program.first_canvas + program.observation.offset)[0]
    log_w = 0.0
    for z_t in z:
        glimpse = program.read(x, x - logits.sigmoid(), decoder[0])
        encoder = step(program.encoder, encoder, glimpse, decoder[0])
        log_q = normal(z_t, *head(program.posterior.head(encoder[0]), program.posterior.scale_floor))
        log_w = log_w + normal(z_t, torch.zeros_like(z_t), torch.ones_like(z_t)) - log_q
        decoder = step(program.decoder, decoder, z_t)
        logits = logits + program.write(decoder[0])[0]
    return log_w + bernoulli(x, logits)


def conv_draw_by_hand(program, x, z):
    """The same for the convolutional program, with kernels of side 3 at half the resolution."""

    def convolve(layer, image, stride=1):
        return conv2d(image[None], layer.weight, layer.bias, stride=stride, padding=1)[0]

    def step(cell, memory, *inputs):
        return lstm(convolve(cell.gates, torch.cat([*inputs, memory[0]])), memory[1])

    height, width = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    encoder, decoder = (
        cell.first.expand(-1, -1, height, width) for cell in (program.encoder, program.decoder)
    )
    offset, canvas = program.observation.offset[0], torch.zeros_like(x)
    log_w = 0.0
    for z_t in z:
        prior = head(convolve(program.prior.head, decoder[0]), program.prior.scale_floor)
        error = x - (canvas + offset).sigmoid()
        encoder = step(program.encoder, encoder, convolve(program.see, torch.cat([x, error]), 2), decoder[0])
        posterior = head(convolve(program.posterior.head, encoder[0]), program.posterior.scale_floor)
        log_w = log_w + normal(z_t, *prior) - normal(z_t, *posterior)
        seen = convolve(program.review, canvas, 2)
        decoder = step(program.decoder, decoder, z_t.reshape(-1, height, width), seen)
        layer = program.write
        written = conv_transpose2d(
            decoder[0][None],
            layer.weight,
            layer.bias,
            stride=2,
            padding=1,
            output_padding=[1 - n % 2 for n in x.shape[1:]],
        )
        canvas = canvas + written[0]
    return log_w + bernoulli(x, canvas + offset)


def torch_cell(ours):
    """torch's own cell, whose gates come as i, f, g, o, from ours, f, i, o, g."""
    hidden = ours.first.shape[1]
    cell = nn.LSTMCell(ours.of_inputs.in_features, hidden).double()
    order = torch.arange(4 * hidden).reshape(4, hidden)[[1, 0, 3, 2]].flatten()
    with torch.no_grad():
        cell.weight_ih.copy_(ours.of_inputs.weight[order])
        cell.weight_hh.copy_(ours.of_state.weight[order])
        cell.bias_ih.copy_(ours.of_inputs.bias[order])
        cell.bias_hh.zero_()
    return cell


# ---- mutants: each changes one thing of the recursion


def with_look(base, change):
    """Encoder that is shown something else; ``change(program, encoder, drawing, x)`` gives its arguments."""

    class Mutant(base):
        def _look(self, encoder, drawing, x):
            return super()._look(*change(self, encoder, drawing, x))

    return Mutant


def with_draw(base, change):
    """Decoder whose new drawing is changed; ``change(program, old, new)``."""

    class Mutant(base):
        def _draw(self, drawing, z):
            return change(self, drawing, super()._draw(drawing, z))

    return Mutant


def mutants_of(base):
    return {
        "no error image": with_look(
            base, lambda self, e, d, x: (e, d._replace(canvas=torch.full_like(d.canvas, -1e3)), x)
        ),
        "guide sees the first drawing": with_look(base, lambda self, e, d, x: (e, self._start(), x)),
        "encoder forgets": with_look(
            base, lambda self, e, d, x: (type(e)(*(0 * value for value in e)), d, x)
        ),
        "canvas is replaced": with_draw(
            base, lambda self, old, new: new._replace(canvas=new.canvas - old.canvas)
        ),
        "encoder starts at zero": with_look(
            base, lambda self, e, d, x: (type(e)(e.h, e.cell * (d.canvas.dim() > 4)), d, x)
        ),
        "decoder forgets its cell": with_draw(
            base,
            lambda self, old, new: new._replace(decoder=new.decoder._replace(cell=0 * new.decoder.cell)),
        ),
    }


def mixed(base):
    """A program whose drawings look at those of the other data."""
    return with_draw(
        base, lambda self, old, new: new._replace(canvas=new.canvas + new.canvas.mean(0, keepdim=True))
    )
