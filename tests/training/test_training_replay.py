"""CUDA graphs by a stand-in for CUDA's part, for want of a GPU: what is copied, recorded anew and left plain."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from pyro_dgm.training.replay import Replayed, replayed


class FakeGraph:
    """Runs the recorded calls again, into the same outputs."""

    def __init__(self):
        self.recorded = None

    def replay(self):
        function, tensors, outputs = self.recorded
        for place, value in zip(outputs, function(*tensors), strict=True):
            place.copy_(value)


class Function:
    """Adds the inputs to what it holds outside, which it counts up; as under a recording, that runs nothing."""

    def __init__(self):
        self.graph, self.calls, self.recordings = None, 0, 0

    def run(self, x, total):
        total += x.sum()
        return [x + total, total * 2]

    def __call__(self, x, total):
        if self.graph is None:
            self.calls += 1
            return self.run(x, total)
        self.recordings += 1
        outputs = [torch.full_like(x, torch.nan), torch.full_like(total, torch.nan)]
        self.graph.recorded = self.run, (x.detach(), total.detach()), outputs  # where they lie now
        return outputs


@pytest.fixture
def function(monkeypatch):
    made = Function()

    @contextmanager
    def recording(graph):
        made.graph = graph
        yield
        made.graph = None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    return made


def check(run, total, steps=5):
    """Each call is one run of the function on new inputs, and on what the one before left outside."""
    for step in range(steps):
        x, before = torch.full((2,), float(step)), total.clone()
        first, second = run(x, total)
        assert torch.equal(total, before + x.sum())
        assert torch.equal(first, x + total) and torch.equal(second, total * 2)


def test_calls_are_those_of_the_function(function):
    check(Replayed(function, 1), torch.zeros(()))
    assert (function.calls, function.recordings) == (1, 1)


def test_inputs_are_contiguous_in_the_function(function):
    strides = []
    run = Replayed(lambda x, total: (strides.append(x.stride()), function(x, total))[1], 1)
    for _ in range(3):
        run(torch.ones(4, 6)[:, :2].t(), torch.zeros(()))
    assert {*strides} == {(4, 1)}


def test_what_lies_elsewhere_is_recorded_anew(function):
    run, total = Replayed(function, 1), torch.zeros(())
    check(run, total)
    total.data = total.data.clone()
    check(run, total)
    assert (function.calls, function.recordings) == (1, 2)


def test_a_recording_that_does_not_look_is_caught(function, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: 0)
    run, total = Replayed(function, 1), torch.zeros(())
    check(run, total)
    total.data = total.data.clone()
    with pytest.raises(AssertionError):
        check(run, total)


def test_what_cannot_be_recorded_runs_plainly(function, monkeypatch):
    def refused(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    check(Replayed(function, 1), torch.zeros(()))
    assert (function.calls, function.recordings) == (5, 0)


def test_tensors_on_the_cpu_need_no_graph(function):
    assert replayed(lambda tensors: function, [torch.zeros(2)], [torch.zeros(())]) is function
