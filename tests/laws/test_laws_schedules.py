"""Laws of schedules: closed forms, exact ends, monotone parts; each with the mutants that it must catch.

A law is a function of ``make(kind, **arguments) -> schedule``, for ``kind`` one of Linear, Cyclical and Sigmoid.
"""

import math

import pytest
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, Cyclical, Linear, Sigmoid, Weight
from pyro_dgm.training import fit
from tests.laws.listed import as_tests
from tests.training.stand_ins import Parts, rows


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


KINDS = {"linear": Linear, "cyclical": Cyclical, "sigmoid": Sigmoid}


def make(kind, **arguments):
    return KINDS[kind](**arguments)


def arguments(seed):
    generator = torch.Generator().manual_seed(seed)
    start, end = (torch.rand(2, generator=generator) / 3).tolist()  # not multiples of one power of two
    return {"steps": int(torch.randint(1, 300, (), generator=generator)), "start": start, "end": end}


def at(schedule, step):
    return schedule(torch.tensor(float(step))).item()


# ---- the laws


def law_values_are_the_closed_forms(make):
    """Every step of twenty random schedules of each kind, scalar by scalar and all at once, to 1e-12."""
    for seed in range(20):
        given = arguments(seed)
        steps, start, end = given["steps"], given["start"], given["end"]
        ramp, cycles, steepness = 0.1 + 0.9 * seed / 19, 1 + seed % 5, 0.5 * (seed + 1)
        linear, sigmoid = make("linear", **given), make("sigmoid", **given, steepness=steepness)
        cyclical = make("cyclical", **given, ramp=ramp, cycles=cycles)

        def curve(share, steepness=steepness):
            def sigma(u):
                return 1 / (1 + math.exp(-u))

            low, high = sigma(-steepness / 2), sigma(steepness / 2)
            return (sigma(steepness * (share - 0.5)) - low) / (high - low)

        for step in range(0, steps + 20, 1 + steps // 40):
            share = min(1.0, step / steps)
            place = 1.0 if step >= steps else step * cycles % steps / steps
            assert at(linear, step) == pytest.approx(start + (end - start) * share, abs=1e-12)
            assert at(sigmoid, step) == pytest.approx(start + (end - start) * curve(share), abs=1e-12)
            risen = min(1.0, place / ramp)
            assert at(cyclical, step) == pytest.approx(start + (end - start) * risen, abs=1e-12)
        for schedule in (linear, sigmoid, cyclical):
            all_steps = torch.arange(0.0, steps + 5.0)
            one_by_one = torch.tensor([at(schedule, step) for step in all_steps])
            assert (schedule(all_steps) - one_by_one).abs().max() < 1e-14


def law_ends_are_exact(make):
    """Step 0 gives ``start`` and every step from the last ``end``, to the last bit, however steep the curve."""
    for seed in range(200):
        given = arguments(seed)
        schedules = [make("linear", **given), make("cyclical", **given, cycles=1 + seed % 4)]
        schedules += [make("sigmoid", **given, steepness=steepness) for steepness in (1e-6, 10.0, 1e4)]
        for schedule in schedules:
            assert at(schedule, 0) == given["start"]
            for step in (given["steps"], given["steps"] + 1, 10**9):
                assert at(schedule, step) == given["end"]


def law_it_only_rises_and_stays_between(make):
    """Rising schedules never fall, falling ones never rise, and both stay between start and end."""
    for seed in range(40):
        given = arguments(seed)
        low, high = sorted((given["start"], given["end"]))
        steps = torch.arange(0.0, given["steps"] + 10.0)
        for schedule in (
            make("linear", **given),
            make("cyclical", **given, cycles=1),
            make("sigmoid", **given),
            make("sigmoid", **given, steepness=0.01),
        ):
            values = schedule(steps)
            change = values.diff() * math.copysign(1.0, given["end"] - given["start"])
            assert (
                (change >= -1e-15).all() and (values >= low - 1e-15).all() and (values <= high + 1e-15).all()
            )
        assert make("sigmoid", **given)(torch.tensor(given["steps"] / 2)) == pytest.approx((low + high) / 2)


def law_each_cycle_is_the_first(make):
    """All cycles have the values of the first, the ramp takes its share of each, and there are as many as asked for."""
    for cycles, length, ramp in ((1, 12, 0.5), (3, 10, 0.3), (4, 25, 1.0), (7, 8, 0.5)):
        schedule = make("cyclical", steps=cycles * length, cycles=cycles, ramp=ramp)
        values = schedule(torch.arange(0.0, cycles * length)).reshape(cycles, length)
        assert (values - values[0]).abs().max() < 1e-12
        assert (values[:, 0] == 0.0).all()
        rising = (values[0] < 1.0).sum().item()
        assert rising == math.ceil(ramp * length)
        assert at(schedule, cycles * length) == 1.0


def changed(change):
    return lambda kind, **given: change(make(kind, **given), given)


MUTANTS_OF_ALL = {
    "from end to start": lambda kind, start=0.0, end=1.0, **given: make(kind, start=end, end=start, **given),
    "a step late": changed(lambda schedule, given: lambda step: schedule((step - 1.0).clamp(min=0.0))),
}
LAWS = [
    (
        law_values_are_the_closed_forms,
        {"ours": make},
        MUTANTS_OF_ALL
        | {
            "line for a curve": lambda kind, steepness=None, **given: make(
                "linear" if kind == "sigmoid" else kind, **given
            )
        },
    ),
    (
        law_ends_are_exact,
        {"ours": make},
        MUTANTS_OF_ALL
        | {
            "sum with rounding": changed(
                lambda schedule, given: (
                    lambda step: (
                        given["start"]
                        + (given["end"] - given["start"])
                        * ((schedule(step) - given["start"]) / (given["end"] - given["start"]))
                    )
                )
            ),
            "never quite there": changed(
                lambda schedule, given: lambda step: schedule(step.clamp(max=given["steps"] - 1e-6))
            ),
        },
    ),
    (
        law_it_only_rises_and_stays_between,
        {"ours": make},
        {
            "from end to start": MUTANTS_OF_ALL["from end to start"],
            "too far": changed(
                lambda schedule, given: lambda step: schedule(step) * 1.01 - 0.005 * given["end"]
            ),
            "several cycles": lambda kind, cycles=1, **given: make(
                "cyclical", steps=given["steps"], start=given["start"], end=given["end"], cycles=3
            ),
        },
    ),
    (
        law_each_cycle_is_the_first,
        {"ours": make},
        {
            "one cycle more": lambda kind, cycles, **given: make(kind, cycles=cycles + 1, **given),
            "half of each": lambda kind, ramp, **given: make(kind, ramp=ramp / 2, **given),
            "a step late": MUTANTS_OF_ALL["a step late"],
        },
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)


# ---- refusals

NAN, INF = math.nan, math.inf
WRONG = [
    *((kind, {"steps": steps}, "steps") for kind in KINDS for steps in (0, -5, NAN, INF, 2.5)),
    *(
        (kind, {"steps": 10, name: value}, name)
        for kind in KINDS
        for name in ("start", "end")
        for value in (-0.1, NAN, INF)
    ),
    *(("cyclical", {"steps": 10, "cycles": cycles}, "cycles") for cycles in (0, -1, NAN, 1.5)),
    *(("cyclical", {"steps": 10, "ramp": ramp}, "ramp") for ramp in (0.0, 1.1, -0.5, NAN)),
    *(("sigmoid", {"steps": 10, "steepness": steepness}, "steepness") for steepness in (0.0, -1.0, NAN, INF)),
]


@pytest.mark.parametrize(("kind", "given", "name"), WRONG)
def test_wrong_arguments_are_refused_by_name(kind, given, name):
    with pytest.raises(InvalidInput, match=f" in {name} of {KINDS[kind].__name__}: .*; expected ") as caught:
        make(kind, **given)
    assert "\n" not in str(caught.value)


FUNCTIONS = {
    "negative at once": (lambda step: -0.1, "bad weight in beta: -0.1 at step 0"),
    "negative at step 150": (
        lambda step: torch.where(step == 150.0, -1.0, 1.0),
        "bad weight in beta: -1 at step 150",
    ),
    "falls below zero": (lambda step: 1.0 - step / 5000.0, r"bad weight in beta: -0\.\d+ at step 5\d\d\d"),
    "no number": (lambda step: step / 0.0, "bad weight in beta: nan at step 0"),
    "infinite": (lambda step: 1.0 / (step - 3.0).abs(), "bad weight in beta: inf at step 3"),
    "two weights": (lambda step: torch.stack([step, step]), r"more than one weight in beta: shape \(2,\)"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_is_no_weight_is_refused_before_training(name):
    function, message = FUNCTIONS[name]
    with pytest.raises(InvalidInput, match=message) as caught:
        ELBO(beta=function)
    assert "\n" not in str(caught.value)


# ---- what counts the steps


def trained(objective, **options):
    data = Parts(rows(40).to("cpu", torch.float64), None)
    program = PPCA(4, 2).double()
    fit(program, objective, data, steps=7, batch_size=8, precision="float64", progress=False, **options)
    return objective


def test_training_advances_a_weight_once_a_step():
    """And by validation, reports and looks at the pair it is not moved."""
    objective = trained(ELBO(beta=Linear(20)))
    assert objective.beta.step.item() == 7 and objective.beta().item() == 7 / 20
    assert list(objective.state_dict()) == ["beta.step"]
    program, x = PPCA(4, 2), torch.randn(3, 4)
    objective.report(program.model, program.guide, x)
    objective.eval()(program.model, program.guide, x)
    assert objective.beta.step.item() == 7


def test_a_number_has_no_state():
    objective = ELBO(beta=0.5)
    objective.beta.advance()
    assert objective.beta() == 0.5 and not objective.state_dict()


def test_precision_is_that_of_the_schedule_not_of_the_program():
    torch.set_default_dtype(torch.float32)
    weight = Weight(Linear(3), name="beta")
    weight.advance()
    assert weight.float()().item() == 1 / 3


def test_a_schedule_that_nothing_advances_is_told_once():
    standing, moving = Weight(Linear(steps=5), name="beta"), Weight(Linear(steps=5), name="beta")
    for _ in range(999):
        standing()
        moving()
        moving.advance()
    with pytest.warns(UserWarning, match=r"schedule of beta stands still.*beta\.advance\(\)"):
        standing()
    with torch.no_grad():
        standing()
    standing()
    moving()


def test_a_schedule_that_an_earlier_training_has_used_up_is_told():
    objective = trained(ELBO(beta=Linear(20)))
    with pytest.warns(UserWarning, match="schedule of beta begins where.*at step 7"):
        trained(objective)
