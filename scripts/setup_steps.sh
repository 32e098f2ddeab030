# The steps of scripts/setup.sh, which sources this file and sets ROOT, VENV, STAMPS, LOG, WORKSPACE, DISTRO, PACKAGES,
# EXTRAS, fail and wants.
# shellcheck shell=bash

say() { printf 'setup: %s\n' "$*"; }

# step TEXT COMMAND...: runs COMMAND with its output in the log, shows progress, and shows the end of the log on failure.
step() {
  local text=$1 start=$SECONDS pid shown=0 code=0
  shift
  say "$text"
  mkdir -p "$(dirname "$LOG")"
  printf '\n==> %s\n' "$*" >>"$LOG"
  "$@" >>"$LOG" 2>&1 &
  pid=$!
  trap 'kill "$pid" 2>/dev/null' INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - start >= shown + 15)); then
      shown=$((SECONDS - start))
      say "  ... ${shown} s: $(tail -n 1 "$LOG" | tr -d '\r' | cut -c 1-90)"
    fi
  done
  wait "$pid" || code=$?
  trap - INT TERM
  if ((code != 0)); then
    tail -n 40 "$LOG" >&2
    fail "step failed: $text (complete output: $LOG)"
  fi
}

pip() { "$VENV/bin/python" -m pip "$@"; }

hash_of() { sha256sum | cut -c 1-16; }

find_ros() {
  ROS_SOURCED=
  if wants ros && [ -n "${ROS_DISTRO:-}" ] && python3 -c 'import rclpy' 2>/dev/null; then
    ROS_SOURCED=yes DISTRO=$ROS_DISTRO PYTHON=$(command -v python3)
    say "using the sourced ROS 2 $ROS_DISTRO"
  elif wants ros && [ "$(uname -m)" != x86_64 ]; then
    fail "ROS 2 wheels exist for x86_64 only; install ROS 2 for $(uname -m), source its setup.bash and run this again"
  fi
}

# The runtime supports Python 3.10, the wheels of ROS 2 do not.
LEAST_PYTHON=3.10
if wants ros; then LEAST_PYTHON=3.11; fi

fits() {
  "$1" -c "import sys; sys.exit(not (3, ${LEAST_PYTHON#3.}) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || fail "PYTHON=$PYTHON is not usable: it must be an executable Python $LEAST_PYTHON to 3.13"
  else
    for candidate in python3 python3.12 python3.13 python3.11 python3.10; do
      if fits "$candidate"; then PYTHON=$candidate && break; fi
    done
    [ -n "${PYTHON:-}" ] || fail "no Python $LEAST_PYTHON to 3.13 found; install one, or set its path: PYTHON=/path/to/python3 $0"
  fi
  # The interpreter itself: the name may be that of an environment, even of the one to be created.
  PYTHON=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))')
  PYTHON_VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
}

# need_packages PACKAGE...: installs Debian packages as root; otherwise fails with the command to run.
need_packages() {
  command -v apt-get >/dev/null || fail "missing on this system: $* (Debian's names); install them and run this again"
  if [ "$(id -u)" -ne 0 ]; then
    fail "missing system packages. Install them and run this again:  sudo apt-get install -y $*"
  fi
  LOG_BEFORE=$LOG LOG=$(mktemp)
  step "installing system packages: $*" apt_install "$@"
  rm -f "$LOG"
  LOG=$LOG_BEFORE
}

apt_install() {
  apt-get update -q || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

check_system_packages() {
  local missing=() series=python3
  case $PYTHON in /usr/bin/python3.*) series=python$PYTHON_VERSION ;; esac
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$series-venv")
  if wants ros; then
    command -v g++ >/dev/null || missing+=(g++)
    "$PYTHON" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
      missing+=("$series-dev")
  fi
  if ((${#missing[@]})); then need_packages "${missing[@]}"; fi
}

make_venv() {
  local kind="$PYTHON ${ROS_SOURCED:-wheels}${ROS_SOURCED:+ $DISTRO}" made
  if [ -e "$VENV" ]; then
    made=$(cat "$STAMPS/kind" 2>/dev/null || true)
    # Without the extra ros, any environment of this Python is suitable.
    if [ "$made" = "$kind" ] || { ! wants ros && [[ $made == "$PYTHON "* ]]; }; then return; fi
    if [ -z "$made" ] || [ -f "$STAMPS/adopted" ]; then adopt_venv "$kind" && return; fi
    say "$VENV is for another Python or ROS ($made): creating it again"
    rm -rf "$VENV"
  fi
  say "creating $VENV with Python $PYTHON_VERSION ($PYTHON)"
  # An environment interrupted here is created again.
  mkdir -p "$STAMPS"
  printf unfinished >"$STAMPS/kind"
  # shellcheck disable=SC2046
  "$PYTHON" -m venv $([ -n "$ROS_SOURCED" ] && echo --system-site-packages) "$VENV"
  printf '%s' "$kind" >"$STAMPS/kind"
}

# An environment not created by this script is used if suitable, and never removed.
adopt_venv() {
  local version
  version=$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none)
  if [ "$version" != "$PYTHON_VERSION" ] || [ -n "$ROS_SOURCED" ]; then
    fail "$VENV was not created by this script and is not suitable (its Python: $version): move it away and run this again"
  fi
  say "using the existing $VENV"
  mkdir -p "$STAMPS"
  touch "$STAMPS/adopted"
  printf '%s' "$1" >"$STAMPS/kind"
}

# Extras installed before are retained, so that `make test` and `make demo` can alternate without installing anything.
install_packages() {
  local all key
  all=$(printf '%s\n' ${EXTRAS//,/ } $(cat "$STAMPS/extras" 2>/dev/null || true) | sort -u | paste -sd, -)
  key=$(cat "$ROOT/pyproject.toml" "$ROOT/sim/pyproject.toml" "$ROOT"/requirements/*.txt "$ROOT"/scripts/{setup_steps.sh,ros_wheels.py} - \
    <<<"$all $DISTRO $ROS_SOURCED $PACKAGES" | hash_of)
  if [ -f "$STAMPS/packages-$key" ]; then return; fi
  rm -f "$STAMPS"/packages-*
  if [ "$PACKAGES" = locked ] && [ -z "$ROS_SOURCED" ]; then install_locked "$all"; else install_resolved "$all"; fi
  # Type checkers do not run the import hooks of editable installs.
  printf '%s\n' "$ROOT/runtime" "$ROOT/export" "$ROOT/recipes" "$ROOT/sim" \
    >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/jepa_edge_sources.pth"
  if [[ ",$all," == *,ros,* ]]; then finish_ros; fi
  tr , '\n' <<<"$all" >"$STAMPS/extras"
  touch "$STAMPS/packages-$key"
}

# install_locked EXTRA,...: the versions and hashes in requirements/.
install_locked() {
  local name size files=("$ROOT/requirements/build.txt" "$ROOT/requirements/base.txt") options=()
  for name in ${1//,/ }; do
    # The lock file contains one ROS 2 distribution.
    if [ "$name" = ros ] && [ "$DISTRO" != jazzy ]; then continue; fi
    [ -f "$ROOT/requirements/$name.txt" ] || fail "unknown extra $name (those of pyproject.toml: see scripts/setup.sh --help)"
    files+=("$ROOT/requirements/$name.txt")
  done
  size=$("$VENV/bin/python" "$ROOT/scripts/downloads.py" "${files[@]}")
  if [ "$size" -gt 0 ]; then say "downloading $size MB of packages (minus the cache of pip)"; fi
  for name in "${files[@]}"; do options+=(-r "$name"); done
  step "installing the packages locked in requirements/: ${1:-base}" pip install --no-deps --require-hashes "${options[@]}"
  if [[ ",$1," == *,export,* ]]; then install_torch; fi
  if [[ ",$1," == *,ros,* && $DISTRO != jazzy ]]; then install_ros_wheels; fi
  step "installing jepa-edge" pip install --no-deps --no-build-isolation -e "$ROOT" -e "$ROOT/sim"
}

# A CPU build if pip finds one, else that of PyPI, which cannot be imported without the CUDA libraries.
install_torch() {
  local file=$ROOT/requirements/torch-cuda.txt version size
  version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$file")
  case $("$VENV/bin/python" -m pip list --format=freeze) in *"torch==$version+cpu"* | *"torch==$version"$'\n'*) return ;; esac
  say "looking for a CPU build of PyTorch $version (less than 200 MB)"
  if pip install --no-deps "torch==$version+cpu" >>"$LOG" 2>&1; then return; fi
  size=$("$VENV/bin/python" "$ROOT/scripts/downloads.py" "$file")
  say "no CPU build found: downloading the build of PyPI with its CUDA libraries, $size MB"
  say "  (to avoid this, name the index of CPU builds of pytorch.org in PIP_EXTRA_INDEX_URL, or a folder in PIP_FIND_LINKS)"
  step "installing PyTorch $version with CUDA" pip install --no-deps --require-hashes -r "$file"
}

# install_resolved EXTRA,...: versions resolved by pip within the ranges of pyproject.toml.
install_resolved() {
  local extras options=()
  extras=$(tr , '\n' <<<"$1" | grep -vx -e ros -e '' | paste -sd, - || true)
  # The messages of a sourced ROS are compiled against its NumPy and break with another one.
  if [ -n "$ROS_SOURCED" ]; then options+=("numpy==$("$PYTHON" -c 'import numpy; print(numpy.__version__)')"); fi
  case $PACKAGES in
    newest) options+=(--upgrade --upgrade-strategy eager) ;;
    oldest)
      # Tools for tests (dev) may be new.
      # shellcheck disable=SC2046
      "$VENV/bin/python" "$ROOT/scripts/oldest_packages.py" $(tr , '\n' <<<"$extras" | grep -vx dev) >"$STAMPS/oldest.txt" ||
        fail "cannot read the lower bounds in pyproject.toml"
      options+=(--constraint "$STAMPS/oldest.txt")
      ;;
  esac
  step "installing jepa-edge${extras:+ with $extras}, within the ranges of pyproject.toml (${options[*]})" \
    pip install -e "$ROOT${extras:+[$extras]}" -e "$ROOT/sim" "${options[@]}"
  # Wheels would shadow a sourced ROS.
  if [[ ",$1," == *,ros,* && -z $ROS_SOURCED ]]; then install_ros_wheels; fi
}

install_ros_wheels() {
  local packages
  mapfile -t packages < <("$VENV/bin/python" "$ROOT/scripts/ros_wheels.py" "$DISTRO")
  step "installing ROS 2 $DISTRO (wheels) and colcon" pip install "${packages[@]}"
}

finish_ros() {
  if [ -z "$ROS_SOURCED" ]; then
    point_cmake_here
  else
    "$VENV/bin/python" -c 'import colcon_core, colcon_ros' 2>/dev/null ||
      step "installing colcon" pip install colcon-common-extensions 'setuptools<80'
  fi
}

# The CMake exports of the wheels contain include folders of the build machine.
point_cmake_here() {
  local include numpy
  include=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  numpy=$("$VENV/bin/python" -c 'import numpy; print(numpy.get_include())')
  { grep -rlE '/opt/python/cp[0-9t]+-cp' "$VENV/share" --include='*.cmake' || true; } | xargs -r sed -i -E \
    "s#/opt/python/[^;\"]*/numpy/(_core|core)/include#$numpy#g; s#/opt/python/[^;\"]*/include/python3\.[0-9]+t?#$include#g"
}

check_opencv() {
  if "$VENV/bin/python" -c 'import cv2' 2>/dev/null; then return; fi
  local glib=libglib2.0-0
  if apt-cache show libglib2.0-0t64 >/dev/null 2>&1; then glib=libglib2.0-0t64; fi
  need_packages libgl1 "$glib"
  "$VENV/bin/python" -c 'import cv2' || fail "OpenCV cannot be imported although libgl1 and $glib are installed; see above"
}

build_workspace() {
  local key prefix=() colcon=("$VENV/bin/python" -c 'import sys; from colcon_core.command import main; sys.exit(main())')
  key=$({ find "$WORKSPACE/src" -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; cat "$STAMPS/kind"; \
    echo "$DISTRO $VENV"; } | hash_of)
  if [ -f "$WORKSPACE/install/.jepa-$key" ]; then return; fi
  # A build for another environment cannot be reused.
  if [ "$(cat "$WORKSPACE/build/.jepa-env" 2>/dev/null)" != "$DISTRO $(cat "$STAMPS/kind")" ]; then
    rm -rf "$WORKSPACE/build" "$WORKSPACE/install" "$WORKSPACE/log"
  fi
  rm -f "$WORKSPACE"/install/.jepa-*
  if [ -z "$ROS_SOURCED" ]; then prefix=(env "AMENT_PREFIX_PATH=$VENV" "CMAKE_PREFIX_PATH=$VENV"); fi
  step "building the ROS 2 workspace (about a minute the first time)" in_workspace "${prefix[@]}" "${colcon[@]}" build \
    --event-handlers console_cohesion- console_direct+ --cmake-args -DPython3_EXECUTABLE="$VENV/bin/python"
  printf '%s' "$DISTRO $(cat "$STAMPS/kind")" >"$WORKSPACE/build/.jepa-env"
  touch "$WORKSPACE/install/.jepa-$key"
}

# colcon runs in the Python of the environment, which it writes into the executables of the nodes.
in_workspace() {
  cd "$WORKSPACE"
  export PATH=$VENV/bin:$PATH
  "$@"
}
