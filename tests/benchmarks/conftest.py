"""Benchmarks beside peers are not collected where the extra `peers` is not installed."""

from importlib.util import find_spec

collect_ignore = (
    []
    if all(find_spec(name) for name in ("zuko", "nflows", "normflows"))
    else ["flow_architectures.py", "flow_densities.py", "flow_speed.py"]
)
