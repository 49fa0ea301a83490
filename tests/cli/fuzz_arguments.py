"""Odd argument vectors for the fuzzing of the command line."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.cli.fuzz_configs import Draw, spaced

WORDS = [
    *spaced("""
    - -- --- = --= -h --help --version --json --debugg --ou --out --overwrite --trust --num --seed
    --num-particles --resume --check --quiet --num=3 --seed=1 --seed=-1 --seed=x
    --seed=99999999999999999999 --num=0 --num=-3 --num=1e3 --num=10000000000000 --num-particles=2
    --num-particles=0 --out=x.png --out=x.npy --out=x.gif --out= --out=no/such/x.npy
    --out=/proc/x.npy é * . --y=7 --y=-1 --y=x --y --program.help --program.help=VAE --data.help=Nope --training.help
    --trainin.help --.help --program.prior.help CONFIG RUN nowhere.yaml nowhere / README.md 1 -1 1.5
    nan true
"""),
    "",
    "\0",
    "--out=\0",
    "\udcff",
    "x" * 300,
    "\n",
    "é ☃",
]
PATHS = spaced("""
    program program.init_args.latent_dim program.hidden objective.class_path data.class_path data
    training.steps training.seed training evaluation.num_particles optimizer.lr optimizer . a.
    program.class_path scheduler.class_path program.. training.steps.x run published trainin.x é.é
""")
TEXTS = [
    "", "1", "0", "-1", "VAE", "IWAE", "Digits", "null", "[", "{a: 1}", "[8]", ".nan", "1e400", "'",
    "10000000000000",
]  # fmt: skip
# The commands that take long on a run get none, and training always runs dry.
GIVEN = {"train": ["CONFIG"], "evaluate": ["RUN"], "sample": ["RUN"]}
COMMANDS = [
    *["train"] * 10,
    *["evaluate", "sample"] * 7,
    "results",
    "diagnose",
    "compare",
    "tran",
    "",
    "--help",
    "é",
]

words = st.one_of(
    st.sampled_from(WORDS),
    st.builds("--{}={}".format, st.sampled_from(PATHS), st.sampled_from(TEXTS)),
    st.builds("--{}".format, st.sampled_from(PATHS)),
    st.text(max_size=6),
)


@st.composite
def vectors(draw: Draw) -> list[str]:
    """A command and a few words; CONFIG and RUN stand for the path of a config and of a run."""
    command = draw(st.sampled_from(COMMANDS))
    given = GIVEN.get(command, [])
    rest = [
        word for word in draw(st.lists(words, max_size=4)) if word not in ("CONFIG", "RUN") or word in given
    ]
    if given and draw(st.sampled_from([True, True, False])):
        rest.insert(draw(st.integers(0, len(rest))), given[0])
    return [command, *(["--dry-run"] if command == "train" else []), *rest]
