"""``python -m pyro_dgm.cli``, as ``torchrun -m`` needs it."""

import sys

from pyro_dgm.cli import main

sys.exit(main())
