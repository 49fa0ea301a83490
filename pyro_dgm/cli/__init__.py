"""pyro-dgm: trains configs, and evaluates, samples, diagnoses and compares the runs.

Heavy imports wait until a command runs, so that --help is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pyro_dgm.cli.commands import COMMANDS
from pyro_dgm.cli.parser import make_parser, split_changes
from pyro_dgm.cli.signals import Terminated, terminable
from pyro_dgm.cli.streams import in_one_line, mend_streams, messages
from pyro_dgm.errors import Fault, Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code and prints an error as one line.

    Exit codes: 0; 2 for a wrong argument, config or data; 3 for a damaged or changed file; 4 for a loss that
    diverged; 5 for lack of disk, memory or device and for a run in use; 130 and 143 when interrupted by SIGINT and
    SIGTERM; 141 when standard output was closed; 1 for anything else.

    Args:
        argv: the arguments; those of the process by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # Before torch starts its threads: threads that spin while they wait make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mend_streams()
    try:
        with terminable():
            return _run(argv)
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except BrokenPipeError:
        # Else the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Interrupted as interruption:
        from pyro_dgm.experiment.training import is_main_process

        if not is_main_process():  # the first one says it for all
            return interruption.exit_code
        return _stop(str(interruption), interruption.exit_code, argv)
    except KeyboardInterrupt:
        return _stop("interrupted", 130, argv)
    except Terminated:
        return _stop("terminated", 143, argv)
    except BaseException as error:
        if "--debug" in argv:
            raise
        return _say(*_explained(error))


def _run(argv: list[str]) -> int:
    argv, changes = split_changes(argv)
    options = make_parser(COMMANDS).parse_args(argv)
    with messages(verbose=options.verbose, quiet=options.quiet):
        code = options.run(options, changes)
    sys.stdout.flush()
    return code or 0


def _explained(error: BaseException) -> tuple[str, int]:
    text = in_one_line(error)
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


def _stop(text: str, code: int, argv: list[str]) -> int:
    if argv[:1] == ["train"]:
        text += "; try the same command with --resume" + " instead of --overwrite" * ("--overwrite" in argv)
    return _say(text, code)


def _say(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
