"""Saturation of INT8 products on this processor.

x86 without VNNI (AMD before Zen 4, most Intel CPUs before 2021) adds two products in 16 bits with saturation:
the latents of a ViT-S in INT8 had a cosine of 0.914 with those of fp32 there, and of 0.9998 elsewhere.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

VNNI = ("avx512_vnni", "avx_vnni")
CPUINFO = Path("/proc/cpuinfo")


def has_exact_sums(cpuinfo: str) -> bool | None:
    """Return whether the processor of a cpuinfo file does not saturate; None: no flags, as on Arm."""
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return None if found is None else bool(set(VNNI) & set(found[1].split()))


def saturates_here() -> bool:
    """Return whether this processor is known to saturate."""
    cpuinfo = ""
    with suppress(OSError):
        cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace")
    return has_exact_sums(cpuinfo) is False
