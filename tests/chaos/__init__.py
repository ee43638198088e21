"""Whole hosts under chance: workers killed at any moment, and very many calls.

``python -m tests.chaos`` and ``python -m tests.chaos --soak`` from a checkout; docs/supervision.md holds recorded runs.
"""
