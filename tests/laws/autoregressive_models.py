"""Small autoregressive distributions in float64 at random parameters, and ones with a planted leak."""

import math
from unittest import mock

import torch
from torch import nn

from pyro_dgm import distributions, models, nets

IMAGE, COLOURED = (1, 3, 3), (3, 1, 2)
ORDER = torch.randperm(9, generator=torch.Generator().manual_seed(5)).tolist()


def at_random(program, *, scale=0.7, seed=0):
    """The program in float64, in evaluation mode, with normal parameters."""
    program = program.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (
            *program.parameters(),
            *(b for n, b in program.named_buffers() if n.endswith("offset")),
        ):
            value.copy_(scale * torch.randn(value.shape, dtype=value.dtype, generator=generator))
    return program


def context_of(program):
    """A context, or None."""
    if not program.context_shape:
        return None
    generator = torch.Generator().manual_seed(1)
    return torch.randn(program.context_shape, dtype=torch.float64, generator=generator)


def channels_last(shape):
    """Flat positions of an image in the order of a raster network: the channels of a pixel one after the other."""
    return torch.arange(math.prod(shape)).reshape(shape).movedim(0, -1).flatten()


def levels(shape, number):
    return {"observation": distributions.CategoricalObservation(shape, levels=number)}


PROGRAMS = {
    "fvsbn": lambda: models.FVSBN(IMAGE, order=ORDER),
    "fvsbn_given": lambda: models.FVSBN(IMAGE, context_shape=(2,)),
    "nade": lambda: models.NADE(IMAGE, hidden=5, order=ORDER),
    "nade_long": lambda: models.NADE((12,), hidden=4),
    "nade_given": lambda: models.NADE(IMAGE, hidden=5, shuffle=True, context_shape=(2,)),
    "nade_categorical": lambda: models.NADE((5,), hidden=4, **levels((5,), 3)),
    "made": lambda: models.MADE(IMAGE, hidden=(10, 12), order=ORDER),
    "made_indirect": lambda: models.MADE(
        IMAGE, hidden=(20, 16), direct=False, shuffle=True, seed=3, activation=nn.Tanh
    ),
    "made_given": lambda: models.MADE(IMAGE, hidden=(10, 12), context_shape=(2,)),
    "made_narrow": lambda: models.MADE(IMAGE, hidden=(4,)),
    "made_categorical": lambda: models.MADE((5,), hidden=(9,), **levels((5,), 3)),
    "pixel_cnn": lambda: models.PixelCNN(IMAGE, channels=12, num_layers=2, kernel_size=3),
    "pixel_cnn_coloured": lambda: models.PixelCNN(COLOURED, channels=13, num_layers=2, kernel_size=3),
    "pixel_cnn_given": lambda: models.PixelCNN(
        IMAGE, channels=4, num_layers=2, kernel_size=3, context_shape=(2,)
    ),
    "pixel_cnn_given_maps": lambda: models.PixelCNN(
        COLOURED, channels=6, num_layers=1, kernel_size=3, context_shape=(2, 1, 2)
    ),
    "pixel_cnn_categorical": lambda: models.PixelCNN(
        (1, 2, 2), channels=4, num_layers=2, kernel_size=3, **levels((1, 2, 2), 4)
    ),
    "gated_pixel_cnn": lambda: models.GatedPixelCNN(IMAGE, channels=4, num_layers=3, kernel_size=3),
    "gated_pixel_cnn_wide": lambda: models.GatedPixelCNN((1, 2, 5), channels=4, num_layers=3, kernel_size=5),
    "gated_pixel_cnn_coloured": lambda: models.GatedPixelCNN(
        COLOURED, channels=21, num_layers=2, kernel_size=3
    ),
    "gated_pixel_cnn_two": lambda: models.GatedPixelCNN((2, 2, 2), channels=8, num_layers=2, kernel_size=3),
    "gated_pixel_cnn_given": lambda: models.GatedPixelCNN(
        IMAGE, channels=4, num_layers=2, kernel_size=3, context_shape=(2,)
    ),
    "gated_pixel_cnn_given_maps": lambda: models.GatedPixelCNN(
        COLOURED, channels=21, num_layers=2, kernel_size=3, context_shape=(2, 1, 2)
    ),
    "gated_pixel_cnn_logistic": lambda: models.GatedPixelCNN(
        (1, 2, 2),
        channels=4,
        num_layers=2,
        kernel_size=3,
        observation=distributions.DiscretizedLogisticMixtureObservation((1, 2, 2), 4, num_components=2),
    ),
}


def order_of(program):
    """Flat positions of the elements from first to last."""
    network = program.network
    match network:
        case nets.MaskedMLP():
            return network.orders[0]
        case nets.SharedWeights():
            return network.order
    return channels_last(program.data_shape)


def distribution(make):
    """A function that makes a program at random and gives (p(x | c), order)."""

    def made():
        program = at_random(make())
        return program(context_of(program)), order_of(program)

    return made


TRUE = {name: distribution(make) for name, make in PROGRAMS.items()}


# ---- planted faults


def with_masks(make, where, *, strict):
    """Mask B in the place of mask A, or A in the place of B."""
    true = nets.masked.causal_mask

    def made():
        with mock.patch.object(where, "causal_mask", lambda a, b, **given: true(a, b, strict=strict)):
            program = make()
            if isinstance(program.network, nets.MaskedMLP):  # which makes its masks at each call
                kept = program.network._masks(0)
                program.network._masks = lambda which: kept
        return distribution(lambda: program)()

    return made


def with_leak(make, name, entry):
    """One masked weight of a layer is seen after all."""

    def leaking():
        program = make()
        layer = program.get_submodule(name)
        mask = layer.mask.clone()
        assert not mask[entry]
        mask[entry] = True
        layer.mask = mask
        return program

    return distribution(leaking)


def with_leak_in_linear(make):
    """The first element to come sees the last one, by one entry of the mask of the outputs."""

    def leaking():
        program = make()
        network = program.network
        true = network._masks

        def masks(which):
            hidden, last, direct = true(which)
            outputs = network._degrees(0)[0]
            last = last.clone()
            last[int(outputs.argmin()), int(network._degrees(len(hidden))[0].argmax())] = True
            return hidden, last, direct

        network._masks = masks
        return program

    return distribution(leaking)


def with_inclusive_sums(make):
    """Each hidden layer of NADE sees the element that it is for."""

    def made():
        p, order = distribution(make)()
        true = torch.Tensor.tril
        network = p.network

        def forward(x, context=None):
            with mock.patch.object(torch.Tensor, "tril", lambda self, diagonal: true(self, diagonal + 1)):
                return network(x, context)

        forward.conditionals = network.conditionals
        leaky = distributions.Autoregressive(forward, p.observation, p.context, context_dims=p.context_dims)
        return leaky, order

    return made


def with_seeing_stack(make):
    """The horizontal stack sees its own pixel: the mask of its first layer is not strict."""

    def seeing():
        program = make()
        layer = program.network.horizontal[0]
        layer.mask = torch.ones_like(layer.mask)
        return program

    return distribution(seeing)


def with_unshifted_rows(make):
    """The vertical stack sees its own row: the image is not shifted down."""

    def seeing():
        program = make()
        network, true = program.network, program.network.rows
        network.rows = lambda above, maps, cursor=None: true(_unshifted(above, cursor), maps, cursor)
        return program

    return distribution(seeing)


def _unshifted(above, cursor):
    return above if cursor is not None else torch.roll(above, -1, dims=-2)


LEAKS = {
    "made_B_for_A": with_masks(PROGRAMS["made"], nets.masked_mlp, strict=False),
    "made_leak": with_leak_in_linear(PROGRAMS["made"]),
    "fvsbn_leak": with_leak_in_linear(PROGRAMS["fvsbn"]),
    "nade_inclusive": with_inclusive_sums(PROGRAMS["nade"]),
    "pixel_cnn_B_for_A": with_masks(PROGRAMS["pixel_cnn"], nets.masked_conv, strict=False),
    "pixel_cnn_leak": with_leak(PROGRAMS["pixel_cnn"], "network.conv.0", (0, 1, 1, 2)),
    "pixel_cnn_coloured_B_for_A": with_masks(PROGRAMS["pixel_cnn_coloured"], nets.masked_conv, strict=False),
    "gated_pixel_cnn_B_for_A": with_masks(PROGRAMS["gated_pixel_cnn"], nets.masked_conv, strict=False),
    "gated_pixel_cnn_sees_itself": with_seeing_stack(PROGRAMS["gated_pixel_cnn"]),
    "gated_pixel_cnn_unshifted": with_unshifted_rows(PROGRAMS["gated_pixel_cnn"]),
    "gated_pixel_cnn_coloured_leak": with_leak(
        PROGRAMS["gated_pixel_cnn_coloured"], "network.horizontal.0", (0, 1, 0, 1)
    ),
}

BLIND = {
    "made_A_for_B": with_masks(PROGRAMS["made_indirect"], nets.masked_mlp, strict=True),
    "pixel_cnn_A_for_B": with_masks(PROGRAMS["pixel_cnn_coloured"], nets.masked_conv, strict=True),
    "gated_pixel_cnn_A_for_B": with_masks(
        PROGRAMS["gated_pixel_cnn_coloured"], nets.masked_conv, strict=True
    ),
}
