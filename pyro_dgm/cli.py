"""pyro-dgm: trains configs, evaluates runs and samples from them.

Heavy imports wait until a command runs, so that --help is quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_dgm.errors import Fault, InvalidInput

_TRAIN = """\
Trains a config into a run directory, evaluates the result and draws pictures of it.

Any value of the config is replaced by --KEY=VALUE with its dotted key and a YAML value, as
  --program.init_args.latent_dim=16   --training.epochs=5   --data.class_path=pyro_dgm.data.MNIST
A new class_path drops the arguments of the old class.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInput(message, cure=f"{self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pyro-dgm", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text.splitlines()[0].removesuffix("."),
            description=text,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    train = command("train", _train, _TRAIN)
    train.add_argument("config", metavar="CONFIG", help="a YAML file, as configs/vae_digits.yaml")
    train.add_argument(
        "--out", metavar="DIR", help="directory of the run; default: runs/ and the config's name"
    )
    train.add_argument("--overwrite", action="store_true", help="replace an older run there")
    evaluate = command("evaluate", _evaluate, "Evaluates a run again and writes its evaluation.json.")
    evaluate.add_argument("folder", metavar="RUN", help="directory of a run")
    evaluate.add_argument("--num-particles", type=int, metavar="N", help="default: as the config says")
    sample = command("sample", _sample, "Draws samples from a run.")
    sample.add_argument("folder", metavar="RUN", help="directory of a run")
    sample.add_argument("--num", type=int, default=64, metavar="N", help="number of samples; default: 64")
    sample.add_argument(
        "--out", metavar="FILE", help=".png (means of p(x | z)) or .npy (draws); default: RUN/samples.png"
    )
    sample.add_argument("--seed", type=int, default=0, help="default: 0")
    sample.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    for added in (evaluate, sample):
        added.add_argument(
            "--trust", action="store_true", help="run the user's own code that the run recorded"
        )
    for added in (train, evaluate, sample):
        added.add_argument(
            "--json", action="store_true", help="one JSON object on standard output, nothing else"
        )
    results = command("results", _results, "Rebuilds the table of results in a README from its ledgers.")
    results.add_argument("ledgers", type=Path, nargs="?", default=Path("configs/results"), metavar="FOLDER")
    results.add_argument("readme", type=Path, nargs="?", default=Path("README.md"), metavar="README")
    results.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where the two differ"
    )
    return parser


def _split_changes(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Arguments without the overrides of config values, and those: --a.b=c or --a.b c."""
    from pyro_dgm.experiment.config import SECTIONS

    rest, changes, waiting = [], [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or ("." not in key and key not in SECTIONS):
            rest.append(argument)
            continue
        if not equals:
            if not waiting:
                raise InvalidInput("no value", where=argument, expected=f"{argument}=VALUE")
            value = waiting.pop(0)
        changes.append((key, value))
    return rest, changes


def _train(options: argparse.Namespace, changes: list[tuple[str, str]]) -> None:
    from pyro_dgm.experiment import train

    run, ledger, pictures = train(
        options.config, changes=changes, out=options.out, overwrite=options.overwrite
    )
    paths = {name: str(path) for name, path in pictures.items()}
    if options.json:
        _print_json({"run": str(run.folder), **_plain(ledger), "pictures": paths})
    else:
        from pyro_dgm.experiment.summary import print_summary

        print_summary(ledger, run.folder, pictures)


def _evaluate(options: argparse.Namespace, changes: list[tuple[str, str]]) -> None:
    from pyro_dgm.experiment import evaluate

    ledger = evaluate(options.folder, num_particles=options.num_particles, trust=options.trust)
    if options.json:
        _print_json({"run": options.folder, **_plain(ledger)})
    else:
        from pyro_dgm.experiment.summary import print_summary

        print_summary(ledger, Path(options.folder), {})


def _sample(options: argparse.Namespace, changes: list[tuple[str, str]]) -> None:
    from pyro_dgm.experiment import sample

    path, shape = sample(
        options.folder,
        num=options.num,
        out=options.out,
        seed=options.seed,
        overwrite=options.overwrite,
        trust=options.trust,
    )
    if options.json:
        _print_json({"samples": str(path), "shape": list(shape)})
    else:
        print(f"{shape[0]} samples: {path}")


def _results(options: argparse.Namespace, changes: list[tuple[str, str]]) -> int:
    from pyro_dgm.evaluation.results import rebuild

    return rebuild(options.ledgers, options.readme, check=options.check)


def _plain(ledger: Any) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(ledger).items() if value is not None}


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True, allow_nan=False), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and prints an error as one line.

    Exit codes: 0; 2 for a wrong argument, config or data; 3 for a damaged file; 4 for a loss that diverged; 5 for
    lack of disk, memory or device; 130 when interrupted; 141 when standard output was closed; 1 for anything else.

    Args:
        argv: the arguments; those of the process by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Before torch starts its threads: threads that spin while they wait make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _mend_streams()
    try:
        return _run(argv)
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else the interpreter complains at its end
        return 141
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BaseException as error:
        if "--debug" in argv:
            raise
        return _say(*_in_one_line(error))


def _mend_streams() -> None:
    """A stream that was closed before we began swallows its text; one that lacks a letter escapes it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(argv: list[str]) -> int:
    changes: list[tuple[str, str]] = []
    if argv[:1] == ["train"]:
        argv, changes = _split_changes(argv)
    options = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"warning: {' '.join(str(message).split())}", file=sys.stderr
        )
        code = options.run(options, changes)
    sys.stdout.flush()
    return code or 0


def _in_one_line(error: BaseException) -> tuple[str, int]:
    text = " ".join(str(error).split())[:1000]
    try:
        raise error
    except Fault as fault:
        return text, fault.exit_code
    except OSError as lack:
        return f"{lack.strerror} in {lack.filename}" if lack.filename else text, 5
    except MemoryError:
        return "out of memory; try a smaller batch or model", 5
    except Exception:
        kind = type(error).__name__
        code = (
            5
            if kind == "OutOfMemoryError" or "not enough memory" in text or "can't allocate memory" in text
            else 1
        )
        return f"{kind}: {text}; --debug shows where", code


def _say(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
