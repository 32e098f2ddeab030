"""Inference engines, one a file, behind one protocol."""

from jepa_runtime.backends.base import Backend, BackendOptions, Graph, Session
from jepa_runtime.backends.registry import create_backend

__all__ = ["Backend", "BackendOptions", "Graph", "Session", "create_backend"]
