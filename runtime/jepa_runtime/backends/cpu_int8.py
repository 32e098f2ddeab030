"""How this processor adds INT8 products.

x86 without VNNI (AMD's before Zen 4, most of Intel's before 2021) adds two of them in 16 bits and cuts off
what does not fit: of a ViT-S in INT8 the latents had a cosine of 0.914 with those of fp32 there; on others,
0.9998.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

VNNI = ("avx512_vnni", "avx_vnni")
CPUINFO = Path("/proc/cpuinfo")


def adds_in_full(cpuinfo: str) -> bool | None:
    """Whether a processor cuts nothing off, by what Linux tells of it; None: no flags, as of Arm's."""
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return None if found is None else bool(set(VNNI) & set(found[1].split()))


def cut_off_here() -> bool:
    """Whether this machine's is known to."""
    cpuinfo = ""
    with suppress(OSError):
        cpuinfo = CPUINFO.read_text(encoding="utf-8", errors="replace")
    return adds_in_full(cpuinfo) is False
