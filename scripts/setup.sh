#!/usr/bin/env bash
# Builds the environment of this repository: .venv at its root and, with "ros", the workspace in ros2_ws.
#
# usage: scripts/setup.sh [--with EXTRA[,EXTRA...]]        extras: ros, and those of pyproject.toml
#
# PYTHON=python3.12      Python of the environment (3.11 to 3.13; without ros also 3.10); default: the first
#                        suitable one
# JEPA_ROS=kilted        ROS 2 distribution of the wheels (default: jazzy). A sourced ROS 2 is used instead.
# JEPA_PACKAGES=newest   package versions: locked (default; requirements/, with hashes), or the newest or oldest that
#                        pyproject.toml allows. With a sourced ROS 2, whose NumPy is retained, pip resolves the ranges.
#
# Repeated runs take seconds: each step leaves a stamp named after the hash of its inputs.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
STAMPS=$VENV/.jepa
LOG=$VENV/setup.log
WORKSPACE=$ROOT/ros2_ws
DISTRO=${JEPA_ROS:-jazzy}
PACKAGES=${JEPA_PACKAGES:-locked}
EXTRAS=

fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --with) EXTRAS=${2:?--with requires a list of extras, for example: --with ros,viz}; shift 2 ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument $1 (see scripts/setup.sh --help)" ;;
  esac
done
case $DISTRO in jazzy | kilted) ;; *) fail "JEPA_ROS must be jazzy or kilted, got $DISTRO" ;; esac
case $PACKAGES in locked | newest | oldest) ;; *) fail "JEPA_PACKAGES must be locked, newest or oldest, got $PACKAGES" ;; esac
# The Python of the ROS wheels sets this for its children; it must not reach another environment.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1
# Python compiles modules at their first import, where it may store them; compiling all packages takes over a minute.
if [ -z "${PYTHONDONTWRITEBYTECODE:-}" ]; then export PIP_COMPILE=0; fi

wants() { [[ ",$EXTRAS," == *",$1,"* ]]; }

# shellcheck source=scripts/setup_steps.sh
. "$ROOT/scripts/setup_steps.sh"

began=$SECONDS
find_ros
find_python
check_system_packages
make_venv
install_packages
check_opencv
if wants ros; then build_workspace; fi
say "ready after $((SECONDS - began)) s: $VENV${ROS_SOURCED:+ (on the sourced ROS 2 $ROS_DISTRO)}"
