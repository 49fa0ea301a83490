"""The receptive field that a convolutional network claims is the one that its gradients have.

Measured at the centre of an image larger than the field, over several draws of weights and data. A mutant claims a row
less or a column more.
"""

import torch

from pyro_dgm.nets import GatedConvNet, MaskedConvNet
from tests.laws.listed import as_tests

SIDE = 21


def network(kind, num_layers, first, later, *, claims=lambda field: field):
    name = "block_kernel_size" if kind is MaskedConvNet else "layer_kernel_size"

    def made(seed):
        torch.manual_seed(seed)
        sizes = {"num_layers": num_layers, "kernel_size": first, name: later}
        net = kind((1, SIDE, SIDE), 1, channels=8, **sizes).double()
        return net, claims(net.receptive_field)

    return made


def the_field_is_the_one_that_is_claimed(make):
    centre, seen = SIDE // 2, torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for seed in range(6):
        net, claimed = make(seed)
        x = torch.rand(8, 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
        net(x)[..., centre, centre].sum().backward()
        seen |= (x.grad != 0).any(0)[0]
    rows, columns = seen.nonzero().unbind(1)
    found = (centre - rows.min(), centre - columns.min(), columns.max() - centre)
    assert tuple(int(side) for side in found) == claimed


def a_row_less(field):
    return (field[0] - 1, *field[1:])


def a_column_more(field):
    return (*field[:2], field[2] + 1)


SIZES = {"one": (1, 5, 3), "two": (2, 3, 3), "three": (3, 5, 3), "wide": (2, 7, 5), "narrow": (3, 5, 1)}
TRUE = {
    f"{kind.__name__}_{name}": network(kind, *sizes)
    for kind in (MaskedConvNet, GatedConvNet)
    for name, sizes in SIZES.items()
}
MUTANTS = {
    "a_row_less": network(GatedConvNet, 3, 5, 3, claims=a_row_less),
    "a_column_more": network(GatedConvNet, 3, 5, 3, claims=a_column_more),
    "a_row_less_of_the_triangle": network(MaskedConvNet, 3, 5, 3, claims=a_row_less),
}
test_law_holds, test_law_catches_mutant = as_tests([(the_field_is_the_one_that_is_claimed, TRUE, MUTANTS)])
