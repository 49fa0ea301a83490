"""What --help says beside the options."""

from __future__ import annotations

MAIN = "Trains deep generative models from configs, and evaluates, samples, diagnoses and compares the runs."

EXIT_CODES = """\
exit codes:
  0 done; 2 wrong argument, config or data; 3 damaged or changed file; 4 loss that diverged; 5 lack of disk, memory
  or device, or a run in use; 130 and 143 interrupted (SIGINT, SIGTERM); 141 standard output closed; 1 anything else.
  An error is one line on standard error; --debug shows where it comes from.
"""

_TRAIN = """\
Trains a config into a run directory, evaluates the result and draws pictures of it.

A config is a YAML file that names classes and their arguments. A whole one:

  program:   {class_path: pyro_dgm.models.VAE, init_args: {latent_dim: 8}}
  objective: {class_path: pyro_dgm.objectives.ELBO}
  data:      {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic}}
  training:  {epochs: 100}

The shape of the data goes to the program by itself. Further sections are optimizer, scheduler and evaluation. A class
of your own, in a file beside the config, goes by its full name: my_file.MyClass. Any value is replaced on the command
line by its dotted key and a YAML value; another class_path drops the arguments of the old class. To see what a section
can hold, ask --program.help; --program.help=VAE explains a class and its arguments.
"""

_TRAIN_EPILOG = f"""\
examples:
  pyro-dgm train configs/vae_digits.yaml
  pyro-dgm train configs/vae_digits.yaml --program.latent_dim=16 --training.epochs=5 --out runs/wide
  pyro-dgm train configs/vae_digits.yaml --dry-run          what would be trained; nothing is written
  pyro-dgm train configs/vae_digits.yaml --resume           goes on, bit for bit, where the run was interrupted
  pyro-dgm train configs/vae_digits.yaml --seeds 5          runs/vae_digits/seed-0 to seed-4, mean and deviation
  pyro-dgm train configs/vae_digits.yaml --init-from runs/wide --out runs/tuned
  torchrun --nproc-per-node 2 -m pyro_dgm.cli train configs/vae_digits.yaml        on two GPUs

resuming:
  A run that was interrupted, killed or out of disk goes on from its last checkpoint by the same command with --resume,
  which also begins a run where there is none and leaves a finished one as it is: it can be run in a loop. The config
  must be that of the run, except for the length (training.epochs, training.steps) and the evaluation. SIGINT and
  SIGTERM let the step finish and save it; a second signal ends at once.

a run directory:
  config.yaml (every value filled in), metrics.jsonl (a row an epoch), checkpoints/, evaluation.json (the results and
  all that they depend on), posterior.nc (draws from the guide, for arviz), curves.png and other pictures

{EXIT_CODES}"""

COMMANDS = {
    "train": (_TRAIN, _TRAIN_EPILOG),
    "evaluate": (
        "Evaluates a run again and writes its evaluation.json.\n\n"
        "--data.KEY=VALUE replaces a value of the data's config: files that have moved, or other data.",
        "examples:\n"
        "  pyro-dgm evaluate runs/vae_digits --num-particles 5000\n"
        "  pyro-dgm evaluate runs/vae_digits --split val --json\n"
        "  pyro-dgm evaluate runs/mine --data.train=/elsewhere/images.npz --trust\n",
    ),
    "sample": (
        "Draws samples from a run.\n\n"
        "A run with labels is drawn given 0, 1, ..., each class in turn, unless --y names one; images then have a\n"
        "column for each class. --json tells the labels. The picture is that of train, without the test data.",
        "examples:\n"
        "  pyro-dgm sample runs/vae_digits\n"
        "  pyro-dgm sample runs/vae_digits --num 1000 --out digits.npy\n"
        "  pyro-dgm sample runs/cvae_digits --y 7 --num 3 --out sevens.png\n"
        "  pyro-dgm sample runs/wavenet_tones --num 10 --out tones.wav\n",
    ),
    "diagnose": (
        "Judges the guide of a run on test data, and writes posterior.nc and report.html.\n\n"
        "The report says what can be trusted, what cannot, and what to try next, by importance weights (Pareto k-hat)\n"
        "of all test data, the inference gap, the calibration on simulated data, the use of the latents, and Markov\n"
        "chains for a few data. Its pictures lie in the folder report. posterior.nc is read by arviz.from_netcdf.",
        "examples:\n"
        "  pyro-dgm diagnose runs/vae_digits\n"
        "  pyro-dgm diagnose runs/vae_digits --num-nuts 0 --num-replications 0\n"
        "  pyro-dgm diagnose runs/vae_digits --num-samples 1000 --num-data 20 --json\n",
    ),
    "compare": (
        "Shows runs side by side, and the config keys in which they differ.\n\n"
        "Differences are those of log p(x) to the first run, with the standard errors of both combined as of\n"
        "independent data (unpaired). Runs on other data, preprocessing or splits are marked, not compared.",
        "example:\n  pyro-dgm compare runs/vae_digits runs/wide\n",
    ),
    "results": (
        "Rebuilds the table of results in a README from its ledgers.",
        "example:\n  pyro-dgm results configs/results README.md --check\n",
    ),
}
