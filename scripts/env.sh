# Sets up the environment and the ROS 2 workspace in the current shell:  . scripts/env.sh
# shellcheck shell=bash

_jepa_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -x "$_jepa_root/.venv/bin/python" ]; then
  echo "env: error: $_jepa_root/.venv does not exist: run scripts/setup.sh --with ros,viz first" >&2
  return 1
fi
# The Python of the ROS wheels sets this for its children; it must not reach another environment.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PATH=$_jepa_root/.venv/bin:$PATH VIRTUAL_ENV=$_jepa_root/.venv
# ROS 2 wheels are installed into the environment itself.
if [ -d "$_jepa_root/.venv/share/ament_index" ]; then
  export AMENT_PREFIX_PATH=$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
  export CMAKE_PREFIX_PATH=$VIRTUAL_ENV${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
fi
if [ -f "$_jepa_root/ros2_ws/install/local_setup.bash" ]; then
  # colcon's scripts read unset variables.
  case $- in *u*) _jepa_unset=yes && set +u ;; *) _jepa_unset= ;; esac
  # shellcheck disable=SC1091
  . "$_jepa_root/ros2_ws/install/local_setup.bash"
  if [ -n "$_jepa_unset" ]; then set -u; fi
  export FASTRTPS_DEFAULT_PROFILES_FILE=$_jepa_root/ros2_ws/src/jepa_bringup/config/fastdds.xml
  export FASTDDS_DEFAULT_PROFILES_FILE=$FASTRTPS_DEFAULT_PROFILES_FILE
fi
unset _jepa_root _jepa_unset
