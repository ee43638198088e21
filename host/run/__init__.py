"""Processes: the spawner, the workers, and the thread that watches them."""
