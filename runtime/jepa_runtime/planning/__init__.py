"""From predicted futures to actions: candidates, cross-entropy method, receding-horizon control."""
