"""From predicted futures to safe commands. Without ROS; the caller passes the clock.

The roles are those of nav2: planner (:mod:`receding_horizon`), controller, goal checker, progress checker,
recovery behaviors, and a safety monitor that stops the robot.
"""
