"""Addresses of bundles on the Hugging Face Hub, without the code that downloads them."""

from __future__ import annotations

from dataclasses import dataclass

HUB_SCHEME = "hf://"
"""The beginning of the address of a bundle on the Hugging Face Hub."""


@dataclass(frozen=True)
class HubAddress:
    """The address of a bundle in place of its folder, as on the command line: ``hf://org/name@revision``.

    A class of its own, because a path would lose one of the two slashes.
    """

    text: str

    def __str__(self) -> str:
        return self.text
