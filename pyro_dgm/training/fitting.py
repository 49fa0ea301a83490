"""fit: trains a program under an objective, or drives a step that was made elsewhere."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.player import OptimizerFactory, adam
from pyro_dgm.objectives.schedules import weights_of
from pyro_dgm.training.batches import Batches, splits_of
from pyro_dgm.training.callbacks import Callback
from pyro_dgm.training.checkpoint_files import saved
from pyro_dgm.training.distributed import joined
from pyro_dgm.training.learner import SchedulerFactory, learner_of_program, learner_of_step, require_program
from pyro_dgm.training.loop import Loop
from pyro_dgm.training.metrics import History
from pyro_dgm.training.options import (
    Compile,
    Device,
    Precision,
    check_training,
    refuse_without_program,
    resolve_compile,
    resolve_device,
    resolve_dtype,
)
from pyro_dgm.training.resumption import go_on, require_saved, was_compiled
from pyro_dgm.training.run_folder import RunFolder
from pyro_dgm.training.steps import Players
from pyro_dgm.training.supports import require_supported
from pyro_dgm.training.validation import BestWeights


def fit(
    program_or_step: Any,
    objective: Any = None,
    data: Any = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    optimizer: OptimizerFactory = adam,
    scheduler: SchedulerFactory | None = None,
    clip_norm: float | None = None,
    max_loss: float | None = None,
    ema: float | None = None,
    device: Device = "auto",
    precision: Precision = "float32",
    compile: Compile = "auto",
    seed: int = 0,
    validate_every: int = 1,
    early_stopping: int | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    init_from: str | Path | None = None,
    progress: bool = True,
) -> History:
    r"""Training by stochastic gradient descent.

    Before the first step, one pass looks for values that an observed site of the program can never take, in training
    and validation data, and the names of the data's fields are compared with the arguments of model and guide.

    Each step draws a batch B and moves the parameters along :math:`\nabla L(B) / |B|`, so that losses,
    gradient norms and learning rates are per datum. Before an update, loss and gradient are checked; a bad
    number stops the run and names the step, the data and the site, with parameters and optimiser as they were
    before. Pyro's own checks of arguments and supports run in the first epoch, which meets the data, and are then
    off.

    Under ``torchrun`` each process takes a piece of every batch, and gradients, clipping and metrics are those of
    the whole batch, uneven pieces included; see :class:`~pyro_dgm.training.processes.Processes` for the losses of
    which this is not true. Process 0 alone validates, calls the callbacks and writes; ``out`` must be a folder that
    all see.

    On one machine and device type the same seed gives the same weights, bit for bit on a CPU. Denormal
    numbers are flushed to zero (``torch.set_flush_denormal``), for good: importance weights underflow into
    them and matrix products crawl. The program is left in evaluation mode.

    Args:
        program_or_step: a Program, trained under ``objective``; or, without an objective, anything with
            ``.step(*batch)``: Pyro's ``SVI``, :class:`Players`. ``device`` and ``precision`` then move only the data.
        objective: ``objective(model, guide, *batch)`` gives a scalar tensor, summed over the batch; or it has
            ``players(program)``, as those with several optimisers.
        data: a data set (its validation split is used), one split, or None for a program that holds its data
            (a hundred steps then count as an epoch).
        epochs: passes over the training data; an incomplete last batch is dropped.
        steps: updates; the shorter of the two ends the run.
        batch_size: data in a batch; fewer, with a warning, if there are fewer data.
        optimizer: makes the optimiser of the program's and the objective's parameters.
        scheduler: makes a learning-rate schedule of an optimiser, stepped once an epoch;
            ``ReduceLROnPlateau`` gets the validation loss.
        clip_norm: largest global gradient norm per datum.
        max_loss: loss per datum at which a run that diverges is stopped; without it, one that grows a
            hundredfold is only warned of.
        ema: decay of an exponential moving average of the program's parameters, which is what is validated
            and what training ends with.
        device: ``auto`` takes CUDA where it is present.
        precision: of parameters and data; ``bfloat16`` keeps both in float32 and lets networks compute in
            bfloat16.
        compile: whether a step's loss and gradients become one compiled graph after the first epoch, see
            :class:`CompiledSVI`; ``"auto"`` does so for a run of 5,000 steps or more in one process.
        seed: of all random numbers; the order of the data has a generator of its own, with the same seed, and
            validation draws the same noise each time.
        validate_every: epochs between validations; the last epoch is always validated.
        early_stopping: validations without a lower loss that end training; the best weights are then
            restored, also if the run ends otherwise.
        callbacks: called between epochs.
        out: folder for ``metrics.jsonl`` and ``checkpoints/``. With it, SIGINT (Ctrl-C) and SIGTERM end training
            after the step and save it; a second signal is obeyed at once.
        resume: goes on from the newest good checkpoint in ``out``, as if training had never stopped: bit for bit,
            if machine and versions are the same. A longer ``epochs`` goes on beyond the end. Where ``out`` has no
            checkpoint, training begins.
        checkpoint_seconds: least time between two checkpoints; the first epoch, the end and an interruption are
            always saved.
        init_from: run directory or checkpoint folder whose weights the program starts from.
        progress: shows a bar on a terminal, a line each tenth elsewhere, on standard error.

    Returns:
        One row an epoch, and why training ended.

    Raises:
        InvalidInput: a wrong argument, or one that means nothing to a step; data that the program cannot observe.
        IntegrityError: ``init_from`` is damaged or has other weights; or no checkpoint in ``out`` is good, or it
            is of a run with other settings.
        Interrupted: a ``KeyboardInterrupt``; a signal came, and ``out`` has everything.
        NonFiniteError: a loss or gradient is NaN, infinite or above ``max_loss``.
        ResourceError: no memory, ``out`` cannot be written, or another process writes it.

    Example:
        >>> import numpy as np
        >>> from pyro_dgm.data import Arrays
        >>> from pyro_dgm.models import PPCA
        >>> from pyro_dgm.objectives import ELBO
        >>> data = Arrays(np.random.default_rng(0).normal(size=(320, 3)))  # 256 of them for training
        >>> ppca = PPCA(data_dim=3, latent_dim=1)
        >>> history = fit(ppca, ELBO(), data, epochs=20, progress=False)
        >>> history.rows[-1]["step"], history.rows[-1]["loss"] < history.rows[0]["loss"]
        (40, True)
    """
    check_training(
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        validate_every=validate_every,
        early_stopping=early_stopping,
        clip_norm=clip_norm,
        max_loss=max_loss,
        checkpoint_seconds=checkpoint_seconds,
        seed=seed,
        device=device,
        precision=precision,
    )
    if resume and out is None:
        raise InvalidInput("nothing to resume", where="out", expected="the folder of a run", cure="out=...")
    dtype = resolve_dtype(precision)
    train, val = splits_of(data)
    if early_stopping is not None and val is None:
        raise InvalidInput(
            "early stopping without a validation split", where="data", cure="early_stopping=None"
        )
    if objective is None:
        refuse_without_program(
            {
                "optimizer": optimizer is not adam,
                "scheduler": scheduler is not None,
                "clip_norm": clip_norm is not None,
                "ema": ema is not None,
                "early_stopping": early_stopping is not None,
                "init_from": init_from is not None,
                "resume": resume,
                "precision": precision == "bfloat16",
                "compile": compile is True and not isinstance(program_or_step, Players),
            }
        )

    torch.set_flush_denormal(True)
    pyro.set_rng_seed(seed)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined(resolve_device(device)))
        if objective is None:
            learner = learner_of_step(
                program_or_step, max_loss=max_loss, validated=val is not None, processes=processes
            )
        else:
            require_program(program_or_step, objective)
        batches = Batches(
            None if train is None else train.to(processes.device, dtype),
            batch_size=batch_size,
            seed=seed,
            processes=processes,
        )
        val = None if val is None else val.to(processes.device, dtype)
        if objective is not None:
            resumes = resume and out is not None and bool(saved(Path(out)))
            if not resumes:
                _tell_schedules(objective)
            learner = learner_of_program(
                program_or_step,
                objective,
                batches=batches,
                dtype=dtype,
                autocast=precision == "bfloat16",
                optimizer=optimizer,
                scheduler=scheduler,
                clip_norm=clip_norm,
                max_loss=max_loss,
                ema=ema,
                init_from=None if resumes else init_from,
            )
            if batches.split is not None and learner.pair is not None:
                named = (
                    {"data": batches.split} if val is None else {"data.train": batches.split, "data.val": val}
                )
                require_supported(
                    named,
                    learner.pair,
                    refuses=learner.step.evaluate_loss,
                    device=processes.device,
                    batch_size=batches.batch_size,
                )
        folder = None
        if out is not None:
            require_saved(learner)
            folder = stack.enter_context(
                RunFolder(out, seconds=checkpoint_seconds, resume=resume, processes=processes)
            )
        if not processes.is_main:
            callbacks = ()
            # The first weights are made: noise differs from here on.
            pyro.set_rng_seed(processes.seed_of(seed))
        lengths = [n for n in (steps, None if epochs is None else epochs * len(batches)) if n is not None]
        tree = None if folder is None else folder.tree
        compiles = isinstance(learner.step, Players) and resolve_compile(
            compile,
            num_steps=min(lengths),
            num_processes=processes.size,
            before=None if tree is None else was_compiled(tree),
        )
        loop = Loop(
            learner=learner,
            batches=batches,
            val=val,
            num_steps=min(lengths),
            compile=learner.step.compile if isinstance(learner.step, Players) and compiles else None,
            validate_every=validate_every,
            seed=seed,
            best=BestWeights(learner.modules, patience=early_stopping),
            callbacks=callbacks,
            folder=folder,
            show_progress=progress and processes.is_main,
            settings={
                "seed": seed,
                "batch_size": batches.batch_size,
                "data": None if train is None else len(train),
                "validation data": None if val is None else len(val),
                "validate_every": validate_every,
                "early_stopping": early_stopping,
                "clip_norm": clip_norm,
                "ema": ema,
                "precision": precision,
                "compile": compiles or None,  # older checkpoints do not say it
                "device": processes.device.type,
                "processes": processes.size,
                "optimizers": {k: type(v).__name__ for k, v in learner.step.optimizers.items()},
                "schedulers": [type(scheduler).__name__ for scheduler in learner.schedulers],
            },
        )
        if folder is not None:
            rows = folder.rewind()
            if folder.tree is not None:
                go_on(loop, folder.tree, rows)
        return loop.run()


def _tell_schedules(objective: Any) -> None:
    """Warns of a schedule that an earlier training has used up: the next program would begin in its middle."""
    for weight in weights_of(objective):
        if weight.is_advanced:
            warnings.warn(
                f"the schedule of {weight.name} begins where an earlier training left it, at step {int(weight.step)}; "
                "try a new objective for a schedule that begins at 0",
                stacklevel=3,
            )
