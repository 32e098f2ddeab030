"""The parts of the update_manager node: what it sees of the node that serves, its frames for the comparison,
the thread that updates, and what may be asked of it."""
