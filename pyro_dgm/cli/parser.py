"""What the command line takes: commands, options, and overrides of config values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pyro_dgm.cli import texts
from pyro_dgm.errors import InvalidInput

Changes = list[tuple[str, str]]
Command = Callable[[argparse.Namespace, Changes], int | None]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInput(message, cure=f"{self.prog} --help")


def make_parser(commands: dict[str, Command]) -> argparse.ArgumentParser:
    """Parser whose result has ``run``, the function of the command.

    Args:
        commands: functions by the name of their command.
    """
    parser = _Parser(
        prog="pyro-dgm",
        description=texts.MAIN,
        epilog=texts.EXIT_CODES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, add in _ARGUMENTS.items():
        description, epilog = texts.COMMANDS[name]
        command = added.add_parser(
            name,
            help=description.splitlines()[0].removesuffix("."),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=commands[name])
        add(command)
        loudness = command.add_mutually_exclusive_group()
        loudness.add_argument(
            "--verbose", action="store_true", help="say what is done (info and debug lines)"
        )
        loudness.add_argument(
            "--quiet", action="store_true", help="neither progress nor warnings, errors only"
        )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _train(parser: argparse.ArgumentParser) -> None:
    parser.usage = "pyro-dgm train CONFIG [--KEY=VALUE ...] [--KEY.help[=CLASS]] [options]"
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a YAML file, as configs/vae_digits.yaml")
    parser.add_argument(
        "--out", metavar="DIR", help="directory of the run; default: runs/ and the config's name"
    )
    older = parser.add_mutually_exclusive_group()
    older.add_argument("--overwrite", action="store_true", help="replace an older run there")
    older.add_argument(
        "--resume", action="store_true", help="go on with the run there; begin it if there is none"
    )
    parser.add_argument(
        "--init-from", metavar="RUN", help="begin with the weights of another run of the same program"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="train N times, with seeds from training.seed on"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be trained, and write nothing"
    )
    _json(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.usage = "pyro-dgm evaluate RUN [--data.KEY=VALUE ...] [options]"
    _run(parser)
    parser.add_argument("--num-particles", type=int, metavar="N", help="default: as the config says")
    parser.add_argument("--split", choices=("test", "val"), help="default: as the config says")
    parser.add_argument(
        "--num-data", type=int, metavar="N", help="only the first N data; default: as the config says"
    )
    _trust(parser)
    _json(parser)


def _sample(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("--num", type=int, default=64, metavar="N", help="number of samples; default: 64")
    parser.add_argument(
        "--y", type=int, metavar="LABEL", help="of a run with labels; default: 0, 1, ..., each class in turn"
    )
    kinds = ".png (of images the means of p(x | z)), .npy (draws) or, of audio, .wav (draws as sound)"
    parser.add_argument("--out", metavar="FILE", help=f"{kinds}; default: RUN/samples.png")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    _trust(parser)
    _json(parser)


def _diagnose(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    numbers = (
        ("--num-samples", 200, "draws from the guide per datum in posterior.nc"),
        ("--num-data", 100, "test data in posterior.nc"),
        ("--num-particles", 1000, "draws for the importance weights of each test datum"),
        ("--num-gap", 200, "data for the inference gap"),
        ("--num-replications", 1000, "simulated data for the calibration, 0 for none"),
        ("--num-nuts", 5, "data that are compared with Markov chains, 0 for none"),
    )
    for option, default, text in numbers:
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text}; default: {default}"
        )
    _trust(parser)
    _json(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", nargs="+", help="directories of two or more runs")
    _json(parser)


def _results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ledgers", type=Path, nargs="?", default=Path("configs/results"), metavar="FOLDER")
    parser.add_argument("readme", type=Path, nargs="?", default=Path("README.md"), metavar="README")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where the two differ"
    )


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="directory of a run")


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trust", action="store_true", help="run the user's own code that the run recorded")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output, nothing else"
    )


_ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "sample": _sample,
    "diagnose": _diagnose,
    "compare": _compare,
    "results": _results,
}


def split_changes(argv: Sequence[str]) -> tuple[list[str], Changes]:
    """Arguments without the overrides of config values, and those: ``--a.b=c`` or ``--a.b c``.

    A key that ends in ``.help`` asks for help and takes a value only behind an equals sign.

    Args:
        argv: the arguments, first the command.

    Raises:
        InvalidInput: an override without a value.
    """
    from pyro_dgm.experiment.config import SECTIONS

    known = {"train": SECTIONS, "evaluate": ("data",)}.get(argv[0] if argv else "")
    if known is None:
        return list(argv), []
    rest, changes, waiting = [], [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        # A key of another section is a mistake, which the config's own check answers; evaluate has only data.
        is_change = key.partition(".")[0] in known or ("." in key and known is SECTIONS)
        if not argument.startswith("--") or not is_change:
            rest.append(argument)
            continue
        if not equals and not key.endswith(".help"):
            if not waiting:
                raise InvalidInput("no value", where=argument, expected=f"{argument}=VALUE")
            value = waiting.pop(0)
        changes.append((key, value))
    return rest, changes
