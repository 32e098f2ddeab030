"""Components of the update_manager node: serving node client, frame source, worker thread and services."""
