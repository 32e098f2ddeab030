"""Print the requirements of the extra "ros" in pyproject.toml for a ROS 2 distribution, one per line."""

import sys
from pathlib import Path

import tomllib

# Kilted replaces these by one package.
_JAZZY_ONLY = (
    "ament-cmake-ros",
    "ament-cmake-gmock",
    "ament-cmake-gtest",
    "ament-cmake-pytest",
    "domain-coordinator",
    "python-cmake-module",
)


def requirements(distro: str) -> list[str]:
    """Return the requirements in the format of pip."""
    project = tomllib.loads(
        (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    )
    jazzy: list[str] = project["project"]["optional-dependencies"]["ros"]
    if distro == "jazzy":
        return jazzy
    dropped = {f"ros-jazzy-{name}" for name in _JAZZY_ONLY}
    shared = [line for line in jazzy if line.split(";")[0].strip() not in dropped]
    return [line.replace("ros-jazzy-", f"ros-{distro}-") for line in shared] + [
        f"ros-{distro}-ament-cmake-ros-core"
    ]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
