"""Laws of PixelRNN in float64 at random parameters, beside those of all autoregressive models.

Its network is the paper's recursion written pixel by pixel; an LSTM layer sees what the paper says that it sees.
"""

import itertools
from functools import partial
from unittest import mock

import pytest
import torch
from torch.nn.functional import pad

from pyro_dgm.distributions import CategoricalObservation
from pyro_dgm.models.pixel_rnn import PixelRNN
from pyro_dgm.nets import causal_mask
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM, skew
from pyro_dgm.nets.image_lstm import Kept
from pyro_dgm.nets.row_lstm import RowLSTM
from tests.laws import test_laws_autoregressive as autoregressive
from tests.laws.autoregressive_models import distribution
from tests.laws.listed import as_tests, planted

SIZES = {"hidden": 4, "num_layers": 2, "kernel_size": 3, "out_features": 5}


def program(shape, layer, **options):
    options.setdefault("observation", None)
    return PixelRNN(shape, layer=layer, **SIZES | options)


SHAPES = {
    "image": ((1, 3, 3), {}),
    "one row": ((1, 1, 6), {}),
    "one column": ((1, 5, 1), {}),
    "coloured": ((3, 1, 2), {}),
    "two channels": ((2, 2, 2), {"num_layers": 1}),
    "levels": ((1, 2, 2), {"observation": CategoricalObservation((1, 2, 2), levels=3)}),
    "given": ((1, 2, 3), {"context_shape": (2,)}),
    "given maps": ((3, 2, 1), {"context_shape": (2, 2, 1)}),
}
PROGRAMS = {
    f"{kind}, {name}": partial(program, shape, layer, **options)
    for kind, layer in (("row", RowLSTM), ("diagonal", DiagonalBiLSTM))
    for name, (shape, options) in SHAPES.items()
}
TRUE = {name: distribution(make) for name, make in PROGRAMS.items()}
# So many feature maps that some are beyond the threshold of the rectifiers for each channel.
WIDE = {
    f"diagonal, {shape}, {num_layers}": partial(
        program, shape, DiagonalBiLSTM, num_layers=num_layers, hidden=9, out_features=18
    )
    for shape, num_layers in (((1, 3, 6), 2), ((3, 3, 4), 1))
}

# ---- planted faults


def with_fault(make, where, **replacements):
    """The program made and run with parts of a module replaced."""

    def faulty():
        with mock.patch.multiple(where, **replacements):
            made = make()
        made.network.forward = planted(made.network.forward, where, **replacements)
        return made

    return distribution(faulty)


NETS = "pyro_dgm.nets."
UNMOVED = (f"{NETS}diagonal_lstm", {"moved_down": lambda image: image})
SKEW = (f"{NETS}diagonal_lstm", {"skew": lambda image: skew(image).roll(-1, 1)})
LATE_SKEW = (f"{NETS}diagonal_lstm", {"skew": lambda image: skew(image).roll(1, 1)})
SWAPPED = (
    f"{NETS}masked_conv",
    {"causal_mask": lambda a, b, *, strict: causal_mask(a, b, strict=not strict)},
)
LOOSE = (f"{NETS}masked_conv", {"causal_mask": lambda a, b, *, strict: causal_mask(a, b, strict=False)})
STRICT = (f"{NETS}masked_conv", {"causal_mask": lambda a, b, *, strict: causal_mask(a, b, strict=True)})
BLOCKS = (
    f"{NETS}image_lstm",
    {"channel_groups": lambda width, number: torch.arange(width) * number // width},
)
NO_COLUMN = (f"{NETS}pixel_rnn", {"_with_column": lambda maps: maps})
LEFT_COLUMN = (f"{NETS}pixel_rnn", {"_with_column": lambda maps: pad(maps, (1, 0))})
TAPS = (f"{NETS}lines", {"_seen": lambda states, taps, before, batch: states.repeat(1, 1, taps)})


def sees_too_much(name):
    found = {}
    if name.startswith("diagonal"):
        found |= {"not moved down": UNMOVED, "skew off by one": SKEW}
    return found | {"mask B for A": LOOSE}


LEAKS = {
    f"{name}, {fault}": with_fault(PROGRAMS[name], where, **parts)
    for name in ("row, image", "diagonal, image", "diagonal, coloured")
    for fault, (where, parts) in sees_too_much(name).items()
    if (name, fault) != ("diagonal, coloured", "not moved down")  # one row: nothing to move
} | {
    f"{kind}, coloured, groups in blocks": with_fault(PROGRAMS[f"{kind}, coloured"], BLOCKS[0], **BLOCKS[1])
    for kind in ("row", "diagonal")
}
BLIND = {
    "no column at the right": with_fault(WIDE["diagonal, (1, 3, 6), 2"], NO_COLUMN[0], **NO_COLUMN[1]),
    "mask A for B": with_fault(WIDE["diagonal, (3, 3, 4), 1"], STRICT[0], **STRICT[1]),
}

# ---- the recursion of the paper, pixel by pixel


def convolved(layer, maps, r, c, groups, *, strict, period):
    """A masked convolution of maps (channels, H, W) at one pixel: taps that come before it, and groups that may."""
    out, (rows, columns) = layer.bias.clone(), layer.kernel_size
    above, left = rows - 1, columns // 2 if rows > 1 else columns - 1
    given = torch.arange(layer.weight.shape[1]) % groups
    made = torch.arange(layer.weight.shape[0]) % period % groups
    may = given[None] < made[:, None] if strict else given[None] <= made[:, None]
    for i, j in itertools.product(range(rows), range(columns)):
        y, x = r + i - above, c + j - left
        if y < 0 or not 0 <= x < maps.shape[-1] or (y == r and x > c):
            continue
        weight = layer.weight[:, :, i, j]
        out = out + (weight * may if (y, x) == (r, c) else weight) @ maps[:, y, x]
    return out


def cell_by_hand(sums, cell):
    f, i, o, g = sums.chunk(4)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def row_by_hand(layer, gates):
    """States of a Row LSTM for gates (4h, H, W): those above, above left and above right are seen."""
    taps, nothing = layer.of_states[0].split(layer.hidden), gates.new_zeros(layer.hidden)
    _, height, width = gates.shape
    states, cells = {}, {}
    for r, c in itertools.product(range(height), range(width)):
        sums = gates[:, r, c]
        for k, tap in enumerate(taps):
            sums = sums + states.get((r - 1, c + k - len(taps) // 2), nothing) @ tap
        states[r, c], cells[r, c] = cell_by_hand(sums, cells.get((r - 1, c), nothing))
    return states


def diagonal_by_hand(layer, gates):
    """States from left to right, plus those from right to left of the row above."""
    _, height, width = gates.shape
    nothing, directions = gates.new_zeros(layer.hidden), []
    for weight, part, step in zip(layer.of_states, gates.chunk(2), (1, -1), strict=True):
        of_above, of_beside = weight.split(layer.hidden)
        states, cells = {}, {}
        for r, c in itertools.product(range(height), range(width)[::step]):
            sums = part[:, r, c] + states.get((r - 1, c), nothing) @ of_above
            sums = sums + states.get((r, c - step), nothing) @ of_beside
            states[r, c], cells[r, c] = cell_by_hand(sums, cells.get((r, c - step), nothing))
        directions.append(states)
    to_right, to_left = directions
    return {(r, c): h + to_left.get((r - 1, c), nothing) for (r, c), h in to_right.items()}


def network_by_hand(network, x, context):
    """Outputs (num_params, C, H, W) for one image (C, H, W)."""
    groups, height, width = x.shape

    def image(pixels, columns):
        rows = [torch.stack([pixels[r, c] for c in range(columns)], -1) for r in range(height)]
        return torch.stack(rows, -2)

    def at_all(layer, maps, *, strict=False, period=10**9):
        _, *size = maps.shape
        kinds = {"strict": strict, "period": period}
        pixels = {(r, c): convolved(layer, maps, r, c, groups, **kinds) for r, c in _pixels(*size)}
        return image(pixels, size[1])

    h = at_all(network.conv_in, pad(2 * x - 1, (0, 1)), strict=True)
    for place, (lstm, up) in enumerate(zip(network.lstms, network.up, strict=True)):
        gates = at_all(lstm.gates, h, period=lstm.hidden)
        if context is not None:
            weight = network.context[place].linear.weight[:, :, 0, 0]
            if context.dim() == 1:
                gates = gates + (weight @ context)[:, None, None]
            else:
                gates = gates + torch.einsum("of,fhw->ohw", weight, pad(context, (0, 1)))
        by_hand = row_by_hand if isinstance(lstm, RowLSTM) else diagonal_by_hand
        h = h + at_all(up, image(by_hand(lstm, gates), width + 1))
    for layer in network.out:
        h = at_all(layer, h.relu())
    return h[..., :width].reshape(network.num_params, *x.shape)


@torch.no_grad()
def law_the_network_is_the_recursion(make):
    p, _ = make()
    torch.manual_seed(8)
    x = torch.rand(2, *p.event_shape, dtype=torch.float64)
    context = None if p.context is None else p.context.expand(2, *p.context.shape)
    found = p.network(x, context)
    for one, image in zip(found, x, strict=True):
        assert (one - network_by_hand(p.network, image, p.context)).abs().max() < 1e-12


BY_HAND = {
    name: distribution(partial(program, shape, layer, **options))
    for kind, layer in (("row", RowLSTM), ("diagonal", DiagonalBiLSTM))
    for name, shape, options in (
        (f"{kind}, (1, 4, 3)", (1, 4, 3), {}),
        (f"{kind}, (3, 2, 4)", (3, 2, 4), {"kernel_size": 5}),
        (f"{kind}, given", (1, 3, 3), {"context_shape": (2,)}),
        (f"{kind}, given maps", (2, 3, 2), {"context_shape": (2, 3, 2), "num_layers": 1}),
    )
} | {
    "row of 5": distribution(partial(program, (1, 3, 4), partial(RowLSTM, kernel_size=5))),
    "row of 1": distribution(partial(program, (1, 3, 4), partial(RowLSTM, kernel_size=1))),
}
NOT_BY_HAND = {
    f"{kind}, {name}": with_fault(PROGRAMS[f"{kind}, image"], where, **parts)
    for kind, name, (where, parts) in (
        ("row", "masks swapped", SWAPPED),
        ("row", "sees what is above alone", TAPS),
        ("row", "column at the left", LEFT_COLUMN),
        ("diagonal", "masks swapped", SWAPPED),
        ("diagonal", "not moved down", UNMOVED),
        ("diagonal", "skew off by one", SKEW),
        ("diagonal", "skew off by one, late", LATE_SKEW),
        ("diagonal", "sees what is beside alone", TAPS),
    )
}

# ---- what a layer sees


@torch.no_grad()
def layer_sees(make, height, width):
    """For each pixel, the pixels whose input changes its state, in a layer at random in float64."""
    torch.manual_seed(9)
    layer = make().double()
    for value in layer.parameters():
        value.copy_(torch.randn_like(value))
    x = torch.randn(2 * layer.hidden, height, width, dtype=torch.float64).expand(height * width, -1, -1, -1)
    changes = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    changed = (layer(x) != layer(x + changes)).any(1)  # by pixel that changes
    pixels = list(_pixels(height, width))
    return {(r, c): {pixels[k] for k in changed[:, r, c].nonzero().flatten()} for r, c in pixels}


def _pixels(height, width):
    return itertools.product(range(height), range(width))


def law_a_row_lstm_sees_a_triangle(sees):
    """In row r - d it sees columns c - (d + 1) k' to c + d k', for kernels of 2 k' + 1."""
    for reach in (1, 2):
        for (r, c), seen in sees(partial(RowLSTM, 2, 1, kernel_size=2 * reach + 1), 4, 7).items():
            expected = {
                (y, x) for y, x in _pixels(r + 1, 7) if c - (r - y + 1) * reach <= x <= c + (r - y) * reach
            }
            assert seen == expected


def law_a_diagonal_lstm_sees_all_before(sees):
    for (r, c), seen in sees(partial(DiagonalBiLSTM, 2, 1), 4, 5).items():
        assert seen == {(y, x) for y, x in _pixels(4, 5) if (y, x) <= (r, c)}


MUTANT_SEES = {
    "not moved down": planted(layer_sees, UNMOVED[0], **UNMOVED[1]),
    "skew off by one": planted(layer_sees, SKEW[0], **SKEW[1]),
    "sees what is beside alone": planted(layer_sees, TAPS[0], **TAPS[1]),
}


DRAWN = {
    name: TRUE[name]
    for name in ("row, two channels", "diagonal, coloured", "diagonal, levels", "diagonal, given")
}


@torch.no_grad()
def law_what_is_kept_gives_the_outputs_of_a_pass(make):
    """Parameters of each element, told the ones before it one after the other, are those of one pass to 1e-12."""
    p, _ = make()
    torch.manual_seed(11)
    x = torch.rand(3, *p.event_shape, dtype=torch.float64)
    context = None if p.context is None else p.context.expand(3, *p.context.shape)
    expected = p.network(x, context).flatten(2)
    steps, told = p.network.conditionals(3, context), None
    for _ in range(p.event_shape.numel()):
        index, params = steps.send(told)
        assert (params - expected[..., index]).abs().max() < 1e-12
        told = x.flatten(1)[:, index]


def with_fault_in_sampling(make, **parts):
    """Pixel after pixel with parts of what keeps the states replaced."""

    def made():
        p, order = make()
        true = p.network.conditionals

        def conditionals(number, context):
            with mock.patch.multiple(Kept, **parts):
                yield from true(number, context)

        p.network.conditionals = p._conditionals = conditionals
        return p, order

    return made


keep = Kept.keep
FORGETFUL = {
    "row": with_fault_in_sampling(TRUE["row, image"], keep=lambda self, *given: None),
    "diagonal": with_fault_in_sampling(TRUE["diagonal, image"], keep=lambda self, *given: None),
    "diagonal from right to left": with_fault_in_sampling(
        TRUE["diagonal, image"], keep=lambda self, way, *given: None if way else keep(self, way, *given)
    ),
    "diagonal, one row early": with_fault_in_sampling(
        TRUE["diagonal, image"], keep=lambda self, way, row, *given: keep(self, way, row + way, *given)
    ),
}

DRAWN_OTHERWISE = {
    "from last to first": autoregressive.reversed_order(TRUE["row, levels"]),
    "forgetful": with_fault_in_sampling(TRUE["diagonal, levels"], keep=lambda self, *given: None),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(12)


test_law_holds, test_law_catches_mutant = as_tests(
    [
        (law_the_network_is_the_recursion, BY_HAND, NOT_BY_HAND),
        (
            law_a_row_lstm_sees_a_triangle,
            {"row": layer_sees},
            {"sees what is above alone": MUTANT_SEES["sees what is beside alone"]},
        ),
        (law_a_diagonal_lstm_sees_all_before, {"diagonal": layer_sees}, MUTANT_SEES),
        (
            autoregressive.all_that_is_earlier_is_seen,
            {name: distribution(make) for name, make in WIDE.items()},
            BLIND,
        ),
        (autoregressive.probabilities_sum_to_one, TRUE, LEAKS),
        (autoregressive.nothing_later_is_seen, TRUE, LEAKS),
        (autoregressive.the_jacobian_is_strictly_triangular, TRUE, LEAKS),
        (autoregressive.draws_have_their_probabilities, DRAWN, DRAWN_OTHERWISE),
        (law_what_is_kept_gives_the_outputs_of_a_pass, TRUE | BY_HAND, FORGETFUL),
        (autoregressive.the_rest_is_drawn_given_what_is_known, DRAWN, {}),
    ]
)
