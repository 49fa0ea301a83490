"""What every test starts from: one thread, fixed seeds, validation on, an empty parameter store, float32."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["MPLBACKEND"] = "Agg"  # before anything imports pyplot; the doctests inherit it

import pyro
import pytest
import torch

# Small tensors run faster on one thread, and a repeated forward pass is then bit-identical.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """The same global state before each test, whatever the test before it left behind."""
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.set_default_dtype(dtype)
    pyro.clear_param_store()
