"""Training that knows of INT8."""
