"""Several processes: two of them, started by torchrun, compute what one computes alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.training import checkpoint_files
from pyro_dgm.training.distributed import Group, joined
from pyro_dgm.training.processes import OneProcess
from tests.training import distributed_fit
from tests.training import distributed_worker as worker

ROOT = Path(__file__).resolve().parents[2]
ALONE = OneProcess(torch.device("cpu"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Results of the two processes, and what they printed. One launch, of some seconds, serves all tests."""
    folder = tmp_path_factory.mktemp("processes")
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    command = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-m", "tests.training.distributed_worker", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **loopback},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return found, done.stderr, folder


@pytest.fixture(scope="module")
def results(run):
    return run[0]


def largest_difference(found, expected):
    """Largest difference of two lists of gradients, relative to the largest entry of each."""
    assert [f is None for f in found] == [e is None for e in expected]
    pairs = [
        (torch.tensor(f, dtype=torch.float64), torch.tensor(e, dtype=torch.float64))
        for f, e in zip(found, expected, strict=True)
        if e is not None
    ]
    return max(((f - e).abs().max() / e.abs().max().clamp(min=1e-12)).item() for f, e in pairs)


@pytest.mark.parametrize("law", worker.LAWS)
def test_two_processes_compute_what_one_does(results, law):
    alone = worker.LAWS[law](ALONE)
    assert largest_difference(results[0][law], alone) < 1e-6
    assert results[0][law] == results[1][law]  # not a bit of difference between the processes


def test_a_mean_of_shard_means_is_caught(results):
    # With shards of 4 and 3 data it is another gradient; with equal shards it would be the same one.
    assert largest_difference(results[0]["mutant, uneven"], worker.LAWS["uneven shards"](ALONE)) > 1e-3
    assert largest_difference(results[0]["mutant, even"], worker.LAWS["no latents"](ALONE)) < 1e-6


def test_an_unused_parameter_has_no_gradient_and_one_that_a_shard_used_has_it_everywhere(results):
    for first, never, _ in (each["unused parameters"] for each in results):
        assert never is None
        assert first == [1 / 8, 1 / 8]


def test_nothing_is_warned_of(run):
    assert "Warning" not in run[1], run[1]


def test_buffers_are_those_of_process_0(results):
    # Each call begins with process 0's; after the last one they differ by that call alone.
    assert [each["buffers"] for each in results] == [3.0, 2.0 + 2.0]


def test_small_numbers_are_shared(results):
    left, right = (each["numbers"] for each in results)
    for name in ("sum", "mean", "any", "broadcast", "infinite", "gather", "aligned"):
        assert left[name] == right[name]
    assert left["sum"] == [3.0, 3.0] and left["mean"] == [0.5, 0.5]
    assert left["any"] == [True, True, False]
    assert left["broadcast"] == 0.1 and left["infinite"] == float("inf")
    assert left["gather"] == [[0, 0], [1, 1]]
    assert left["aligned"] == [1, 1, 1]
    assert left["untouched"] == [0.0, 0.0] and right["untouched"] == [1.0, 1.0]
    assert (left["is_main"], right["is_main"]) == (True, False)


def test_shards_are_a_partition(results):
    left, right = (each["numbers"]["shards"] for each in results)
    assert [a + b for a, b in zip(left, right, strict=True)] == [list(range(n)) for n in (2, 7, 8)]
    assert [len(shard) for shard in left] == [1, 4, 4]


def test_each_process_has_noise_of_its_own_and_process_0_that_of_the_seed(results):
    left, right = (each["numbers"]["seeds"] for each in results)
    assert left == [0, 1, 2]
    assert len({*left, *right}) == 6
    assert all(0 <= seed < 2**32 for seed in right)


def test_a_group_is_used_where_there_is_one_and_can_be_made_again(results):
    for rank, each in enumerate(results):
        assert each["nested"] == [rank, 2]
        assert each["still there"] is True
        assert each["again"] == 2.0


def test_parameters_are_their_processes_own_again(results):
    assert [each["afterwards"] for each in results] == [5.0, 6.0]


def test_a_process_that_leaves_does_not_keep_the_others_waiting(results):
    name, message, seconds = results[0]["desertion"]
    assert name == "ResourceError" and "process 0 of 2" in message
    assert seconds < 30
    assert results[1]["desertion"][0] == "KeyError"  # its own error, not one about the group


class Thirds(Group):
    """One of three processes, without a group."""

    def __init__(self, rank):
        super(Group, self).__init__(rank, 3, device=torch.device("cpu"))


@pytest.mark.parametrize("num", [3, 4, 5, 6, 100])
def test_shards_of_three_differ_by_at_most_one_and_shares_are_equal(num):
    shards = [Thirds(rank).shard(torch.arange(num)) for rank in range(3)]
    assert torch.equal(torch.cat(shards), torch.arange(num))
    lengths = [len(shard) for shard in shards]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1
    assert {Thirds(rank).share(num) for rank in range(3)} == {num / 3}


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    Thirds(0).check(3)
    with pytest.raises(InvalidInput, match="fewer data in a batch than processes in batch_size: 2"):
        Thirds(0).check(2)


def test_one_process_changes_nothing():
    with joined(torch.device("cpu")) as processes:
        loss = torch.nn.Identity()
        assert processes.wrap(loss, []) is loss
        value = torch.rand(3)
        assert processes.sum(value) is value
        assert torch.equal(processes.mean(value), value)
        assert processes.gather(value) == [value]
        assert processes.any(True) is True and processes.any(False) is False
        assert processes.seed_of(5) == 5
        assert processes.share(7) == 7
        processes.check(1)
        processes.barrier()
    assert not torch.distributed.is_initialized()


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(InvalidInput, match="WORLD_SIZE=2 without LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        joined(torch.device("cpu")),
    ):
        pass


# ---- fit


def test_a_run_of_two_processes_is_that_of_one(results):
    alone = distributed_fit.given_noise(worker.NoisyAutoencoder(), worker.data)
    assert results[0]["fit"] == results[1]["fit"]
    assert largest_difference(results[0]["fit"]["weights"], alone["weights"]) < 1e-9
    assert len(results[0]["fit"]["rows"]) == len(alone["rows"]) < 12  # stopped early, together
    for row, expected in zip(results[0]["fit"]["rows"], alone["rows"], strict=True):
        assert row == pytest.approx(expected, rel=1e-9)


def test_processes_have_noise_of_their_own_and_the_same_weights(results, tmp_path):
    (first, second) = (each["resumed"]["whole"] for each in results)
    assert first == second
    alone = distributed_fit.noisy(tmp_path)
    assert first["losses"] != alone["losses"]  # the same shards with the same noise would be a mistake


def test_a_run_that_a_signal_to_one_process_interrupted_goes_on_bit_for_bit(results):
    for each in (each["resumed"] for each in results):
        assert each["code"] == 143
        assert each["again"] == each["whole"]
    # They agree every ten steps, and none leaves before process 0 has saved.
    assert [each["resumed"]["step"] for each in results] == ["step-00000020"] * 2


def test_process_0_alone_writes_and_calls_the_callbacks(run):
    results, _, folder = run
    assert [each["resumed"]["told"] for each in results] == [4, 0]
    assert [each["resumed"]["epochs"] for each in results] == [4, 4]
    assert {each["resumed"]["stopped_by"] for each in results} == {"callback"}
    lines = (folder / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 11))
    tensors, _ = checkpoint_files.read(checkpoint_files.saved(folder / "cut")[0])
    states = [tensors[f"rng/torch/{rank}"] for rank in range(2)]
    assert not torch.equal(*states)


def test_what_several_processes_cannot_train_is_refused(results):
    for step, batch in (each["refusals"] for each in results):
        assert "which would drift apart" in step
        assert "fewer data in a batch than processes" in batch
