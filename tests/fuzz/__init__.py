"""A fuzzer of what a hostile worker may send: `python -m tests.fuzz --frames 10000000`.

`seeds` has good messages, `mutation` spoils them, `target` reads what comes as the host does and says what is wrong.
With `--engine atheris` the coverage-guided fuzzer of that name takes the place of `mutation`, where it is installed.
"""
