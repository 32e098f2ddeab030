"""From predicted futures to actions: energies, searches within limits, plans, receding-horizon control."""
