"""Which of my trajectories brings the robot nearest to its goal? Asks a running world model."""

import argparse
import sys

import numpy as np
import rclpy
from jepa_msgs.srv import EvaluateActions
from jepa_ros.common.conversions import fill

from jepa_runtime.recording.messages import array_of, tensor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--count", type=int, default=200, help="how many trajectories")
parser.add_argument("--steps", type=int, default=8, help="of each, at most the model's horizon")
parser.add_argument("--service", default="/world_model/evaluate_actions")
chosen = parser.parse_args()

# Yours come from your own planner: [K, H, A], here velocities in m/s.
wander = np.random.default_rng(0).normal(0.0, 0.4, (chosen.count, chosen.steps, 2)).cumsum(axis=1)
trajectories = np.clip(wander, -0.7, 0.7)

rclpy.init()
node = rclpy.create_node("trajectory_scorer")
client = node.create_client(EvaluateActions, chosen.service)
if not client.wait_for_service(timeout_sec=10.0):
    sys.exit(f"there is no service {chosen.service}: does the world model run?")
question = fill(EvaluateActions.Request(deadline_s=5.0), {"actions": tensor("actions", trajectories)})
future = client.call_async(question)
rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
answer = future.result() if future.done() else None
if answer is None or not answer.success:
    sys.exit(f"not scored: {answer.message if answer else 'no answer came'}")

ends = array_of(answer.energies)[:, -1]
best = int(ends.argmin())
print(f"now {answer.current_energy:.4f}; trajectory {best} of {len(ends)} ends nearest, at {ends[best]:.4f}:")
print(np.round(trajectories[best], 2).tolist())
rclpy.shutdown()
