"""Fuzz the same readers with atheris (``pip install atheris``), which searches inputs that reach new code:

    python -m tests.ota.fuzz.coverage manifest -runs=100000

Arguments after the name go to libFuzzer. It starts from the valid inputs, and ends at the first finding.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jepa_runtime"]):
    from tests.bundles import make_bundle
    from tests.ota.fuzz.targets import targets


def main() -> None:
    name, *options = sys.argv[1:]
    home = Path(tempfile.mkdtemp())
    bundle = make_bundle(home / "toy")
    target = next(target for target in targets(home, bundle.path) if target.name == name)
    corpus = home / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)

    def feed(data: bytes) -> None:
        with suppress(*target.errors):
            target.read(data)

    atheris.Setup([sys.argv[0], str(corpus), *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
