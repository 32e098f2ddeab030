"""Components of the planner node: parameters, the ReachGoal action and the command publisher."""
