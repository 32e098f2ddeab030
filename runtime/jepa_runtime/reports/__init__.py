"""Reports as self-contained HTML pages, on one page template and one chart module."""
