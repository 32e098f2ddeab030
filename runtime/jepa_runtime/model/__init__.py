"""The world model: compiled graphs, rollouts, and parity with the golden outputs."""
