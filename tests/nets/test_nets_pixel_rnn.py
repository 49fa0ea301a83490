"""The network of PixelRNN and its parts: gradients written out, skewing, shapes, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM, moved_down, skew, unskew
from pyro_dgm.nets.lines import over_lines
from pyro_dgm.nets.pixel_rnn import PixelLSTM
from pyro_dgm.nets.row_lstm import RowLSTM

KINDS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}
each_kind = pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS.keys())


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("taps", "before", "directions"), [(3, 1, 1), (2, 1, 2), (1, 0, 1), (2, 0, 1), (5, 2, 2)]
)
@pytest.mark.parametrize("lines", [1, 4])
def test_the_gradient_is_that_of_finite_differences(
    taps: int, before: int, directions: int, lines: int
) -> None:
    gates = random(lines, directions, 4, 2, 8).requires_grad_()
    weight = random(directions, taps * 2, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, w: over_lines(a, w, before=before), (gates, weight))


def test_a_second_gradient_is_refused_and_not_wrong() -> None:
    gates, weight = random(3, 1, 4, 2, 8).requires_grad_(), random(1, 6, 8)
    (slope,) = torch.autograd.grad(
        over_lines(gates, weight, before=1).square().sum(), gates, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 4), (4, 3)], ids=str)
def test_a_column_of_the_skewed_image_is_a_diagonal(size: tuple[int, int]) -> None:
    height, width = size
    image = random(height, width, 2)
    skewed = skew(image)
    assert skewed.shape == (height, height + width - 1, 2)
    for row in range(height):
        expected = random(0, 2).new_zeros(height + width - 1, 2)
        expected[row : row + width] = image[row]
        assert torch.equal(skewed[row], expected)
    assert torch.equal(unskew(skewed), image)


def test_a_row_of_zeros_comes_first() -> None:
    image = random(3, 4, 2)
    moved = moved_down(image)
    assert torch.equal(moved[1:], image[:-1])
    assert not moved[0].any()
    assert not moved_down(image[:1]).any()


@each_kind
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("context_shape", [(), (2,), (2, 3, 4)], ids=str)
def test_leading_dimensions_are_kept(layer, leading: tuple[int, ...], context_shape: tuple[int, ...]) -> None:
    options = {"hidden": 3, "num_layers": 2, "kernel_size": 3, "out_features": 3}
    net = PixelLSTM((2, 3, 4), 5, layer=layer, context_shape=context_shape, **options).double()
    x = random(*leading, 2, 3, 4)
    context = random(*leading, *context_shape) if context_shape else None
    out = net(x, context)
    assert out.shape == (*leading, 5, 2, 3, 4)
    if out.numel() and leading:
        last = (-1,) * len(leading)
        alone = net(x[last], None if context is None else context[last])
        torch.testing.assert_close(out[last], alone, rtol=0, atol=1e-12)


@each_kind
def test_an_image_of_one_pixel(layer) -> None:
    assert PixelLSTM((1, 1, 1), 1, layer=layer, num_layers=1)(torch.zeros(5, 1, 1, 1)).shape == (
        5,
        1,
        1,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RowLSTM(0, 1), "hidden, num_groups"),
        (lambda: RowLSTM(4, 1, kernel_size=2), "kernel_size"),
        (lambda: DiagonalBiLSTM(2, 3), "hidden: 2; expected an integer >= 3"),
        (lambda: PixelLSTM((8, 8), 1), "data_shape"),
        (lambda: PixelLSTM((1, 0, 8), 1), "data_shape"),
        (lambda: PixelLSTM((1, 8, 8), 0), "num_params"),
        (lambda: PixelLSTM((3, 8, 8), 1, hidden=2), "hidden: 2; expected"),
        (lambda: PixelLSTM((3, 8, 8), 1, out_features=2), "out_features: 2; expected"),
        (lambda: PixelLSTM((1, 8, 8), 1, kernel_size=1), "kernel_size: 1; expected an odd integer >= 3"),
        (lambda: PixelLSTM((1, 8, 8), 1, kernel_size=4), "kernel_size"),
        (lambda: PixelLSTM((1, 8, 8), 1, num_layers=0), "num_layers"),
        (lambda: PixelLSTM((1, 8, 8), 1, context_shape=(2, 3, 8)), "context_shape"),
        (lambda: PixelLSTM((1, 8, 8), 1)(torch.zeros(8, 8, 1)), "channels-last"),
    ],
)
def test_refused(make, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()
