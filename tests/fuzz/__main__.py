"""Read N frames and print what became of them: `python -m tests.fuzz [--frames N] [--seed N] [--engine atheris]`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time

from tests.fuzz import mutation, seeds, target


def main() -> None:
    """Exit status 1 with the bytes of the first finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {options.engine}, seed {options.seed}", flush=True)
    tally, started = target.Tally(), time.monotonic()
    if options.engine == "atheris":
        _guided(options.frames, options.seed, tally, started)
    else:
        _mutated(options.frames, options.seed, tally)
        _tell(tally, started)


def _mutated(frames: int, seed: int, tally: target.Tally) -> None:
    for number, stream in enumerate(mutation.streams(seeds.frames(), seed)):
        target.read_stream(stream, tally, cut=number % (len(stream) + 1))
        if number % 8 == 0:
            target.read_events(stream)
        if tally.frames >= frames:
            return


def _guided(frames: int, seed: int, tally: target.Tally, started: float) -> None:
    import atheris

    import sandbox_worker.messages
    import sandbox_worker.wire

    for module in (sandbox_worker.wire, sandbox_worker.messages):
        for name, value in vars(module).items():
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not isinstance(value, type):
                setattr(module, name, atheris.instrument_func(value))

    folder = _corpus()

    def one(data: bytes) -> None:
        target.read_stream(data, tally, cut=data[0] if data else 0)
        target.read_events(data)
        if tally.frames >= frames:
            _tell(tally, started)
            shutil.rmtree(folder)
            os._exit(0)  # libFuzzer knows no other end than its own count, which is one of inputs

    atheris.Setup([sys.argv[0], f"-seed={seed % 2**31}", "-max_len=4096", "-verbosity=0", folder], one)
    atheris.Fuzz()


def _corpus() -> str:
    folder = tempfile.mkdtemp(prefix="plughold-fuzz-")
    for number, frame in enumerate(seeds.frames()):
        with open(os.path.join(folder, str(number)), "wb") as file:
            file.write(frame)
    return folder


def _tell(tally: target.Tally, started: float) -> None:
    print(f"{tally}; {time.monotonic() - started:.0f} s; nothing found", flush=True)


if __name__ == "__main__":
    main()
