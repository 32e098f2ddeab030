"""A ROS graph for tests: nodes in separate processes on their own domain, and an observer in this process."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rclpy
from ament_index_python.packages import get_package_prefix
from jepa_ros.profiler.processes import choose_domain
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

TIMEOUT_S = 20.0
# How long aborted nodes may take to write their stacks, and how much of each log is shown.
ABORT_S = 3.0
LOG_CHARACTERS = 4000


def executable(node: str) -> str:
    """Return the path of a node's executable in the sourced workspace."""
    return str(Path(get_package_prefix("jepa_ros")) / "lib" / "jepa_ros" / node)


class Graph:
    """Manage one domain with an observer node and any number of processes.

    With ROS_SECURITY_ENABLE, each node is in the enclave of its name.

    Args:
        folder: Folder of logs and reports.
        domain: ROS domain. 0: a random one.
    """

    def __init__(self, folder: Path, domain: int = 0) -> None:
        self.folder = folder
        # Isolate this graph from other nodes on the network.
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        self.domain = domain or int(choose_domain())
        self._context = Context()
        arguments = ["--ros-args", "--enclave", "/observer"]
        rclpy.init(args=arguments, context=self._context, domain_id=self.domain)
        self.observer = rclpy.create_node("observer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.observer)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # What was waited for in vain, after which the nodes were aborted.
        self._missed = ""

    def start(
        self,
        node: str,
        parameters: dict[str, Any] | None = None,
        remaps: tuple[str, ...] = (),
        *,
        called: str = "",
        **process: Any,
    ) -> None:
        """Start ``node`` with its log and report in the test's folder.

        Args:
            node: Executable.
            parameters: ROS parameters.
            remaps: Remappings.
            called: Name of the log, the report and the process. Empty: the name of the node.
            process: Options of :class:`subprocess.Popen`.
        """
        called = called or node
        given = {"report_path": str(self.folder / f"{called}.json"), **(parameters or {})}
        command = [executable(node), "--ros-args", "--enclave", f"/{node}"]
        command += [part for remap in remaps for part in ("-r", remap)]
        for name, value in given.items():
            text = json.dumps(str(value) if isinstance(value, Path) else value)
            command += ["-p", f"{name}:={text}"]
        environment = {
            **os.environ, "ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"
        }  # fmt: skip
        with self.log(called).open("ab") as log:
            self.processes[called] = subprocess.Popen(
                command, env=environment, **{"stdout": log, "stderr": log} | process
            )

    def log(self, node: str) -> Path:
        """Return the path of the log of ``node``."""
        return self.folder / f"{node}.log"

    def report(self, node: str) -> dict[str, Any]:
        """Return the report that ``node`` wrote when it stopped."""
        fields: dict[str, Any] = json.loads((self.folder / f"{node}.json").read_text(encoding="utf-8"))
        return fields

    def stop(self, node: str, number: signal.Signals = signal.SIGINT) -> int:
        """Send ``number`` and return the exit code."""
        process = self.processes.pop(node)
        process.send_signal(number)
        return process.wait(TIMEOUT_S)

    def exit_code(self, node: str) -> int:
        """Wait until ``node`` exits by itself and return its exit code. The graph stops one that does not."""
        code = self.processes[node].wait(TIMEOUT_S)
        del self.processes[node]
        return code

    def until(
        self,
        condition: Callable[[], Any],
        what: str,
        timeout_s: float = TIMEOUT_S,
        *,
        meanwhile: Callable[[], Any] | None = None,
        every_s: float = 0.04,
    ) -> None:
        """Spin until ``condition`` is true, calling ``meanwhile`` repeatedly.

        At the timeout, fail with the exit code of each process that has exited, abort the others, and show
        the end of each log, which then has the stacks of their threads.
        """
        began = time.monotonic()
        due = began
        while not condition():
            now = time.monotonic()
            if self._missed:
                raise AssertionError(f"{what}: the nodes were aborted after waiting for {self._missed}")
            if now > began + timeout_s:
                self._missed = what
                raise AssertionError(f"not within {timeout_s:g} s: {what}{self._abort()}")
            if meanwhile is not None and now >= due:
                meanwhile()
                due = now + every_s
            self._executor.spin_once(timeout_sec=0.02)

    def _abort(self) -> str:
        """Abort the running processes; return the state of each process and the end of its log."""
        exited = {node: process.poll() for node, process in self.processes.items()}
        running = [process for node, process in self.processes.items() if exited[node] is None]
        for process in running:
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
            process.send_signal(signal.SIGABRT)
        deadline = time.monotonic() + ABORT_S
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        report = ""
        for node, code in exited.items():
            state = "running, aborted now" if code is None else f"exited with {code}"
            lines = self.log(node).read_text(encoding="utf-8", errors="replace").splitlines()
            # With the stacks, Python writes a long line of names of modules.
            log = "\n".join(line for line in lines if not line.startswith("Extension modules: "))
            report += f"\n--- {node}: {state}\n{log[-LOG_CHARACTERS:]}"
        return report

    def spin_for(self, duration_s: float) -> None:
        """Process messages for a while, to show that something does not arrive."""
        end = time.monotonic() + duration_s
        self._executor.spin_once(timeout_sec=0.0)
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=min(0.02, duration_s))

    def listen(self, kind: type[Any], topic: str, qos: QoSProfile | int = 50) -> list[Any]:
        """Return a list that collects the messages of ``topic`` while the graph is spun."""
        received: list[Any] = []
        self.observer.create_subscription(kind, topic, received.append, qos)
        return received

    def publisher(
        self, kind: type[Any], topic: str, qos: QoSProfile | int = 10, *, listeners: int = 1
    ) -> Any:
        """Return a publisher that has matched ``listeners`` subscribers."""
        publisher = self.observer.create_publisher(kind, topic, qos)
        self.until(
            lambda: publisher.get_subscription_count() >= listeners, f"{listeners} subscribers of {topic}"
        )
        return publisher

    def call(self, kind: type[Any], service: str, request: Any, *, again_s: float = math.inf) -> Any:
        """Call a service and return the response, waiting for the service to exist.

        The request is repeated every ``again_s``, if that is harmless: a server drops its response to a
        client that it has not matched yet.
        """
        client = self.observer.create_client(kind, service)
        self.until(client.service_is_ready, f"service {service}")
        answers: list[Any] = []
        self.until(
            lambda: any(future.done() for future in answers),
            f"answer of {service}",
            meanwhile=lambda: answers.append(client.call_async(request)),
            every_s=again_s,
        )
        self.observer.destroy_client(client)
        return next(future.result() for future in answers if future.done())

    def change_state(self, node: str, transition: int) -> bool:
        """Request a lifecycle transition and return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, f"/{node}/change_state", request).success)

    def state(self, node: str) -> str:
        """Return the lifecycle state."""
        return str(
            self.call(GetState, f"/{node}/get_state", GetState.Request(), again_s=5.0).current_state.label
        )

    def set_parameter(self, node: str, name: str, value: Any) -> str:
        """Set a parameter; return the reason for a rejection, or an empty string."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, f"/{node}/set_parameters", request, again_s=5.0).results[0]
        return "" if result.successful else str(result.reason) or "no reason"

    def describe(self, node: str, names: list[str]) -> list[Any]:
        """Return descriptors of parameters."""
        answer = self.call(
            DescribeParameters, f"/{node}/describe_parameters", DescribeParameters.Request(names=names)
        )
        return list(answer.descriptors)

    def close(self) -> None:
        """Stop all processes and leave the domain."""
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self.observer.destroy_node()
        self._context.try_shutdown()


@contextmanager
def graph(folder: Path, **arguments: Any) -> Iterator[Graph]:
    """Yield a :class:`Graph` and close it."""
    ros = Graph(folder, **arguments)
    try:
        yield ros
    finally:
        ros.close()
