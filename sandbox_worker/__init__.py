"""What runs inside a worker, and the pure modules that both sides share (`wire`, `messages`, `permissions`, `errors`).

Nothing here imports `host`; a worker loads this package and no other code of ours.
"""
