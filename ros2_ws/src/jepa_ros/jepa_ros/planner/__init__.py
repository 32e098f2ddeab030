"""The parts of the planner node: the search for a plan, what makes the robot stand, goals, and commands."""
