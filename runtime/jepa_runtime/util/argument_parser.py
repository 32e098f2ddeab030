"""The parser of all commands."""

from __future__ import annotations

import argparse
from typing import Any


class ArgumentParser(argparse.ArgumentParser):
    """Parse arguments without accepting abbreviated options, which a new option could make ambiguous.

    Parsers of sub-commands are of this class, too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False
