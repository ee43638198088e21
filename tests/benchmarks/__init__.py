"""Benchmarks: ratios of medians within one run, peers side by side; never timed assertions.

``python -m tests.benchmarks`` from a checkout prints one table; docs/benchmarks.md holds a recorded run.
"""
