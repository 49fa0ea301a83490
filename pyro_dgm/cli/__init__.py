"""pyro-dgm: trains configs, and evaluates, samples, diagnoses and compares the runs.

Heavy imports wait until a command runs, so that --help is quick.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Sequence

from pyro_dgm.cli.commands import COMMANDS
from pyro_dgm.cli.parser import make_parser, split_changes
from pyro_dgm.cli.signals import Terminated, terminable
from pyro_dgm.cli.streams import in_one_line, mend_streams, messages
from pyro_dgm.errors import Fault, Interrupted
from pyro_dgm.experiment.main_process import is_main_process

_PATIENCE = 3.0  # seconds that another process than the first leaves it to say what is wrong


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
        if not is_main_process():
            return _run_silently(argv)
        with terminable():
            return _run(argv)
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except BrokenPipeError:
        # Else the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Interrupted as interruption:
        return _stop(str(interruption), interruption.exit_code, argv, begun=True)
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


def _run_silently(argv: list[str]) -> int:
    """Runs a command in one of several processes whose first one prints the results, the warnings and the errors.

    SIGTERM keeps its own effect: there is nothing to clean up, and a process that waits for the others within torch
    would see an exception when they come, and torchrun wait for it half a minute.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _run(argv if "--verbose" in argv else [*argv, "--quiet"])
    except Interrupted as interruption:
        return interruption.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:
        # What goes wrong in all is said by the first one, and torchrun ends this process now. What goes wrong here
        # alone is said all the same.
        time.sleep(_PATIENCE)
        raise


def _explained(error: BaseException) -> tuple[str, int]:
    text = in_one_line(error)
    try:
        raise error
    except Fault as fault:
        return text, fault.exit_code
    except OSError as lack:
        return f"{lack.strerror} in {lack.filename}" if lack.filename else text, 5
    except Exception:
        kind = type(error).__name__
        if kind in ("MemoryError", "OutOfMemoryError") or "allocate memory" in text:  # torch's of GPU and CPU
            return "out of memory; try a smaller batch_size, num_particles or model", 5
        return f"{kind}: {text}; --debug shows where", 1


def _stop(text: str, code: int, argv: list[str], *, begun: bool = False) -> int:
    if argv[:1] == ["train"]:
        text += "; try the same command with --resume"
        if "--overwrite" in argv:  # before the first step the older run is put back, and would go on
            text += " instead of --overwrite" + ("" if begun else ", if training had begun")
    return _say(text, code)


def _say(text: str, code: int) -> int:
    text = text if is_main_process() else f"in process {os.environ.get('RANK')}: {text}"
    print(f"error: {text}", file=sys.stderr)
    return code
