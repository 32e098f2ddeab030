"""Health of the serving process after a swap, and the interface to it."""
