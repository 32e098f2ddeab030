"""Send the chunks of a policy to a planner with search_method policy, and print the critic's verdicts."""

import argparse
import sys
import time
from collections import Counter

import numpy as np
import rclpy
from jepa_msgs.msg import ActionCandidates, CriticVerdict
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill

from jepa_runtime.recording import messages

RESPONSES = ("accept", "choose", "slow_down", "veto", "not_judged")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--count", type=int, default=100, help="chunks to be judged (default: %(default)s)")
parser.add_argument("--candidates", type=int, default=8, help="chunks per message (default: %(default)s)")
parser.add_argument("--steps", type=int, default=4, help="steps per chunk (default: %(default)s)")
parser.add_argument("--planner", default="planner", help="name of the planner (default: %(default)s)")
arguments = parser.parse_args()
rng = np.random.default_rng(0)


def policy() -> np.ndarray:
    """Return chunks [K, h, A] of your policy, the given one first; this one wanders, in m/s."""
    angles = rng.uniform(-np.pi, np.pi, arguments.candidates)
    velocities = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.repeat(velocities[:, None], arguments.steps, axis=1).astype(np.float32)


rclpy.init()
node = rclpy.create_node("policy")
verdicts: list[CriticVerdict] = []
node.create_subscription(CriticVerdict, f"{arguments.planner}/verdict", verdicts.append, qos.RESULT)
candidates = node.create_publisher(ActionCandidates, f"{arguments.planner}/policy_candidates", qos.RESULT)


def send() -> None:
    """Publish the next candidates; they replace those that have no verdict yet."""
    message = ActionCandidates(source="wanderer")
    message.header.stamp = node.get_clock().now().to_msg()
    candidates.publish(fill(message, {"actions": messages.tensor("actions", policy())}))


node.create_timer(0.1, send)
responses: Counter[str] = Counter()
newest_s = time.monotonic()
while sum(responses.values()) - responses["not_judged"] < arguments.count:
    rclpy.spin_once(node, timeout_sec=0.5)
    newest_s = time.monotonic() if verdicts else newest_s
    if time.monotonic() - newest_s > 10.0:
        sys.exit(f"no verdicts: start {arguments.planner} with search_method policy, and a world model")
    for verdict in verdicts:
        responses[RESPONSES[verdict.response]] += 1
        print(f"{RESPONSES[verdict.response]}: {verdict.reason}", flush=True)
    verdicts.clear()
print(f"{sum(responses.values())} verdicts: {dict(responses)}")
rclpy.shutdown()
