"""Benchmarks: `python -m benchmarks.run`, or `make bench`. Results are kept in benchmarks/results/."""

import os

# The profiler, which counts memory, otherwise reports its own comings and goings; read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
