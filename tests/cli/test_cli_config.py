"""Configs as plain data: bounded reading, overrides, and names that are checked with the nearest that is known."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
import yaml

from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.class_names import check_config, foreign_names, resolve
from pyro_dgm.experiment.config import config_hash, override, parse_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))

BAD_YAML = {
    "an alias bomb": (BOMB, "line 2 has an alias"),
    "a duplicate key": ("a:\n  lr: 1\n  lr: 2\n", "line 3 has key 'lr' twice"),
    "a python object": ("a: !!python/object/apply:os.system ['true']", "tag"),
    "a set": ("a: !!set {b}", "tag"),
    "a key that is a number": ("1: 2", "line 1 has a key that is no string"),
    "a key that is a list": ("? [a, b]\n: 2", "line 1 has a key that is no string"),
    "an open bracket": ("a: [1, 2", "line 1"),
    "a control character": ("a: \x00", "bad YAML"),
    "deep nesting": ("[" * 20_000, "nesting deeper"),
    "deep nesting of blocks": ("".join(" " * i + "a:\n" for i in range(300)), "nesting deeper"),
    "a huge integer": ("a: " + "9" * 10_000, "bad YAML"),
    "a megabyte": ("a: " + "x" * 2**20, "too long a config"),
    "many keys to the limit": ("{" + "a" * 65_000, "line 1"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_bad_yaml_is_refused_within_a_second_and_ten_megabytes(name: str) -> None:
    text, message = BAD_YAML[name]
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(InvalidInput, match=message):
        parse_yaml(text, where="a test")
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5.0  # five times less without the tracing of memory
    assert peak < 10 * 2**20


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("-2E+1", -20.0),
        ("2024-01-01", "2024-01-01"),
        ("", None),
        ("on", True),
    ],
)
def test_scalars_are_read_as_a_person_means_them(text: str, value: object) -> None:
    assert parse_yaml(text, where="a test") == value


def test_plain_yaml_means_what_yaml_means() -> None:
    rng = random.Random(0)

    def tree(depth: int) -> object:
        kinds = [lambda: rng.randint(-9, 9), lambda: rng.random(), lambda: "é x", lambda: None, lambda: True]
        if depth:
            kinds += [
                lambda: [tree(depth - 1) for _ in range(3)],
                lambda: {f"k{i}": tree(depth - 1) for i in range(3)},
            ]
        return rng.choice(kinds)()

    for _ in range(50):
        value = tree(3)
        assert parse_yaml(yaml.safe_dump(value), where="a test") == value


BASE = {
    "program": {"class_path": "pyro_dgm.models.VAE", "init_args": {"latent_dim": 2, "hidden": [5]}},
    "objective": {"class_path": "pyro_dgm.objectives.ELBO"},
    "data": {"class_path": "pyro_dgm.data.Digits", "init_args": {"binarize": "dynamic"}},
    "training": {"epochs": 1},
}


def test_overrides_reach_any_depth_and_leave_the_original_alone() -> None:
    before = config_hash(BASE)
    changes = [
        ("program.init_args.latent_dim", "3"),
        ("program.hidden", "[7, 7]"),
        ("program.init_args.posterior.class_path", "Foo"),
        ("program.posterior.a", "1e-3"),
        ("evaluation.num_particles", "5"),
        ("scheduler", "null"),
    ]
    config = override(BASE, changes)
    posterior = {"class_path": "Foo", "init_args": {"a": 1e-3}}
    assert config["program"]["init_args"] == {"latent_dim": 3, "hidden": [7, 7], "posterior": posterior}
    assert config["evaluation"] == {"num_particles": 5} and config["scheduler"] is None
    assert config_hash(BASE) == before != config_hash(config)


def test_another_class_drops_the_arguments_of_the_old_one() -> None:
    config = override(BASE, [("data.class_path", "pyro_dgm.data.Moons"), ("data.seed", "3")])
    assert config["data"] == {"class_path": "pyro_dgm.data.Moons", "init_args": {"seed": 3}}
    assert override(BASE, [("data", "Moons")])["data"] == {"class_path": "Moons"}


@pytest.mark.parametrize("key", ["program.latent_dim.x", "training.epochs.x.y"])
def test_an_override_below_a_number_is_refused_by_key(key: str) -> None:
    with pytest.raises(InvalidInput, match=r"no mapping in (program\.latent_dim|training\.epochs)"):
        override(BASE, [(key, "1")])


def test_the_hash_of_a_config_ignores_the_order_of_keys_alone() -> None:
    assert config_hash(BASE) == config_hash(dict(reversed(BASE.items())))
    assert config_hash(BASE) != config_hash(override(BASE, [("training.epochs", "2")]))


UNKNOWN = {
    "a section": ("trainig", "1", "unknown key in trainig; try training"),
    "an argument": ("program.latnt_dim", "1", "program.init_args.latnt_dim; try latent_dim"),
    "a class": ("program.class_path", "pyro_dgm.models.VEA", "pyro_dgm.models.VEA; try pyro_dgm.models.VAE"),
    "a short name": ("objective.class_path", "IWEA", "IWEA; try pyro_dgm.objectives.IWAE"),
    "a module": ("data.class_path", "pyro_dgm.dota.Digits", "try pyro_dgm.data.Digits"),
    "a class that is none": ("objective.class_path", "3", "bad class in objective"),
    "a section that is a list": ("training", "[1]", "no such mapping in training"),
    "a node with another key": ("program.init_arg", "{}", "program.init_args.init_arg"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_is_answered_with_the_nearest(name: str) -> None:
    key, value, message = UNKNOWN[name]
    with pytest.raises(InvalidInput) as caught:
        check_config(override(BASE, [(key, value)]))
    assert message in str(caught.value)


def test_short_class_names_stand_for_full_ones() -> None:
    assert resolve("VAE", key="program")[0] in ("pyro_dgm.VAE", "pyro_dgm.models.VAE")
    assert resolve("Adam", key="optimizer")[0] == "torch.optim.Adam"


FOREIGN = {
    "a class": {"class_path": "os.path.join"},
    "a callable": {"init_args": {"model": "subprocess.call"}},
    "inside a string": {"init_args": {"x": "\n{class_path: subprocess.Popen}"}},
    "as a key": {"subprocess.call": 1},
    "in a list": [[{"a": "shutil.rmtree"}]],
    "through a trusted package": "torch.os.system",
    "a module of a trusted package": "torch.serialization.os",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_code_is_found_wherever_it_is_named(name: str) -> None:
    assert foreign_names(FOREIGN[name]) != []


def test_trusted_code_and_file_names_are_not_foreign() -> None:
    assert foreign_names([BASE, "torch.nn.Tanh", "pyro.infer.Trace_ELBO", "./my_digits.npz", 1e-3]) == []
