"""Recurrent cells against torch's own cell, and their leading dimensions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets import ConvLSTMCell, LSTMCell
from pyro_dgm.nets.recurrent import Memory, join


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def gates_of_torch(rows: Tensor) -> Tensor:
    """Gates in torch's order i, f, g, o from ours, f, i, o, g."""
    kept, let_in, let_out, new = rows.chunk(4)
    return torch.cat([let_in, kept, new, let_out])


def torch_cell(weight: Tensor, recurrent: Tensor, bias: Tensor) -> nn.LSTMCell:
    cell = nn.LSTMCell(weight.shape[1], recurrent.shape[1]).double()
    with torch.no_grad():
        cell.weight_ih.copy_(gates_of_torch(weight))
        cell.weight_hh.copy_(gates_of_torch(recurrent))
        cell.bias_ih.copy_(gates_of_torch(bias))
        cell.bias_hh.zero_()
    return cell


def test_a_cell_is_the_one_of_torch() -> None:
    ours = LSTMCell(3, 4).double()
    theirs = torch_cell(ours.of_inputs.weight, ours.of_state.weight, ours.of_inputs.bias)
    memory, x = Memory(random(6, 4), random(6, 4)), random(6, 3)
    for found, expected in zip(ours(memory, x), theirs(x, memory), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_convolutional_cell_with_kernel_one_is_a_cell_at_each_place() -> None:
    ours = ConvLSTMCell(3, 4, kernel_size=1).double()
    weight = ours.gates.weight.flatten(1)
    theirs = torch_cell(weight[:, :3], weight[:, 3:], ours.gates.bias)
    memory, x = Memory(random(4, 2, 5), random(4, 2, 5)), random(3, 2, 5)
    found = ours(memory, x)
    expected = theirs(x.flatten(1).T, [value.flatten(1).T for value in memory])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.flatten(1).T, other, rtol=0, atol=1e-12)


def test_a_convolutional_cell_sees_its_neighbours_only() -> None:
    """With kernel 3 an input reaches the 3 x 3 places around it, and each of them."""
    cell = ConvLSTMCell(1, 2, kernel_size=3).double()
    memory, x = Memory(random(2, 7, 7), random(2, 7, 7)), random(1, 7, 7)
    moved = x.clone()
    moved[0, 2, 4] += 1
    reached = (cell(memory, x).h != cell(memory, moved).h).all(0)
    assert reached.nonzero().tolist() == list(map(list, itertools.product((1, 2, 3), (3, 4, 5))))


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_leading_dimensions_broadcast(kind: str) -> None:
    """The first memory has none, inputs have those of data, later ones those of particles and data."""
    if kind == "vectors":
        cell, event, start = LSTMCell(5, 4).double(), (), lambda: cell.start()
    else:
        cell, event = ConvLSTMCell(5, 4).double(), (3, 2)
        start = lambda: cell.start(event)  # noqa: E731
    with torch.no_grad():
        cell.first.normal_()
    a, b = random(6, 2, *event), random(7, 6, 3, *event)
    memory = cell(start(), a, b)
    memory = cell(memory, a, b)
    assert memory.h.shape == memory.cell.shape == (7, 6, 4, *event)
    one = cell(cell(start(), a[2], b[5, 2]), a[2], b[5, 2])
    torch.testing.assert_close(memory.h[5, 2], one.h, rtol=0, atol=1e-12)


def test_join_puts_first_things_first() -> None:
    a, b = random(3, 2), random(4)
    assert torch.equal(join(a, b), torch.cat([a, b.expand(3, 4)], 1))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: LSTMCell(0, 3), "in_features"),
        (lambda: LSTMCell(3, 0), "hidden"),
        (lambda: ConvLSTMCell(0, 3), "in_channels"),
        (lambda: ConvLSTMCell(3, 0), "channels"),
        (lambda: ConvLSTMCell(3, 3, kernel_size=4), "kernel_size: 4; expected an odd"),
    ],
)
def test_refused(make, argument: str) -> None:
    with pytest.raises(InvalidInput, match=argument):
        make()
