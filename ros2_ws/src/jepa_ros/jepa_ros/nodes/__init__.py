"""One module per executable; each has ``PARAMETERS``, the node's class and ``main``."""
