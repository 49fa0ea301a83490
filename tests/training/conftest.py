from __future__ import annotations

import pytest

from pyro_dgm.training import compiled_loss


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that were made, which run as they were recorded, without a compiler."""
    made = []
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: made.append(module) or module)
    return made
