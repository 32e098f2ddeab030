"""Find the trajectory that brings the robot closest to its goal, with a running world_model node."""

import argparse
import sys

import numpy as np
import rclpy
from jepa_msgs.srv import EvaluateActions
from jepa_ros.common.conversions import fill

from jepa_runtime.recording import messages

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--count", type=int, default=200, help="number of trajectories (default: %(default)s)")
parser.add_argument("--steps", type=int, default=8, help="steps of each, at most the model's horizon")
parser.add_argument("--service", default="/world_model/evaluate_actions", help="service name")
arguments = parser.parse_args()

# Replace these with the trajectories of your planner: [K, H, A], here velocities in m/s.
wander = np.random.default_rng(0).normal(0.0, 0.4, (arguments.count, arguments.steps, 2)).cumsum(axis=1)
trajectories = np.clip(wander, -0.7, 0.7)

rclpy.init()
node = rclpy.create_node("trajectory_scorer")
client = node.create_client(EvaluateActions, arguments.service)
if not client.wait_for_service(timeout_sec=10.0):
    sys.exit(f"service {arguments.service} is not available: start the world model")
request = fill(EvaluateActions.Request(deadline_s=5.0), {"actions": messages.tensor("actions", trajectories)})
future = client.call_async(request)
rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
response = future.result() if future.done() else None
if response is None or not response.success:
    sys.exit(f"evaluation failed: {response.message if response else 'no response'}")

ends = messages.array_of(response.energies)[:, -1]
best = int(ends.argmin())
print(f"current energy {response.current_energy:.4f}")
print(f"best of {len(ends)} trajectories: {best}, final energy {ends[best]:.4f}:")
print(np.round(trajectories[best], 2).tolist())
rclpy.shutdown()
