"""Tables and figures of the lectures at a size for one core: `python -m benchmarks.lectures NAME`."""
