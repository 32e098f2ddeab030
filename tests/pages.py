"""What a self-contained page does not have."""

from __future__ import annotations

import re

_EXTERNAL = re.compile(
    r"<script(?! type='application/json')|<link|(?:src|href)=(?!'data:|'#)|url\(|@import|https?:"
)


def external(page: str) -> list[str]:
    """Return executable scripts and references to other files in a page."""
    return _EXTERNAL.findall(page)
