#!/usr/bin/env bash
# Installs the runtime with pip in Debian 13 for arm64, as on a robot, and runs its unit tests there under qemu.
#
#   scripts/arm64.sh [PYTEST_OPTIONS...]      the installation is retained in out/arm64
#
# Requires qemu-user, mmdebstrap, util-linux 2.39 and Linux 6.7; root, or the package uidmap. The host is not changed: qemu is registered
# for arm64 programs in a user namespace that ends with the script.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SYSTEM=${ARM64_SYSTEM:-$ROOT/out/arm64}
BINFMT=/proc/sys/fs/binfmt_misc
# Like the cores of Jetson Orin, ARMv8.2 without SVE. On qemu's default, max, OpenBLAS multiplies matrices of float64 wrongly (10.0.13).
CPU=neoverse-n1

# qemu does not emulate the inputs of the first two: resident pages in /proc/self/smaps and faults in /proc/self/stat. The third allows
# one minute for 200 inferences including startup, and the fourth plays 30 images per second: both are too fast for qemu.
NOT_UNDER_QEMU=(
  serving/test_realtime.py::test_pages_of_files_leave_memory_and_can_be_read_again
  telemetry/test_monitor.py::test_monitor_of_this_process_has_memory_faults_and_descriptors
  profiling/test_importers.py::test_real_benchmark_app_report_is_imported
  recording/test_black_box_run.py::test_replay_of_a_black_box_bag_is_surprising_again
)

fail() {
  printf 'arm64: error: %s\n' "$*" >&2
  exit 1
}

say() { printf 'arm64: %s (%s s)\n' "$*" "$SECONDS"; }

enter_namespace() {
  local tool ids=(--map-auto --map-root-user)
  for tool in qemu-aarch64 mmdebstrap; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt install qemu-user mmdebstrap"
  done
  if [ "$(id -u)" -eq 0 ]; then ids=(--map-users=0:0:65536 --map-groups=0:0:65536); fi
  exec unshare --user "${ids[@]}" --mount env ARM64_INSIDE=yes "$0" "$@"
}

register_qemu() {
  local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  mount -t binfmt_misc binfmt_misc $BINFMT || fail "a user namespace cannot register programs: Linux 6.7 or newer is required"
  # F: opens qemu now, since it is not available inside the new root.
  printf ':arm64:M::%s:%s:%s:OCF' "$magic" "$mask" "$(command -v qemu-aarch64)" >$BINFMT/register
}

# Unpacked but not configured: Python needs no more, and nothing has to run under qemu.
unpack() {
  local name
  mkdir -p "$(dirname "$SYSTEM")"
  mmdebstrap --quiet --arch=arm64 --variant=extract --mode=root --skip=check/qemu \
    --include=python3,python3-venv,dash,coreutils,libgl1,libglib2.0-0t64 trixie "$SYSTEM"
  for name in bin lib sbin; do ln -s usr/$name "$SYSTEM/$name"; done
  mkdir -p "$SYSTEM"/{dev,proc,src,sys,etc/ssl/certs}
  chmod 1777 "$SYSTEM/tmp"
  printf '%s\n' 'root:x:0:0:root:/:/bin/sh' 'tester:x:1000:1000::/tmp:/bin/sh' >"$SYSTEM/etc/passwd"
  printf '%s\n' 'root:x:0:' 'tester:x:1000:' >"$SYSTEM/etc/group"
}

# inside USER COMMAND...
inside() {
  local user=$1
  shift
  env -i PATH=/opt/jepa/bin:/usr/bin HOME=/tmp LANG=C.UTF-8 OMP_NUM_THREADS=1 QEMU_CPU=$CPU \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$(command -v chroot)" --userspec="$user" "$SYSTEM" \
    /bin/sh -c 'cd /src && exec "$@"' sh "$@"
}

install_runtime() {
  cp -L /etc/resolv.conf /etc/hosts "$SYSTEM/etc/"
  cp -L /etc/ssl/certs/ca-certificates.crt "$SYSTEM/etc/ssl/certs/"
  rm -rf "$SYSTEM/src"
  mkdir "$SYSTEM/src"
  git -C "$ROOT" ls-files -z | tar -C "$ROOT" --null -T - -c | tar -C "$SYSTEM/src" -x --no-same-owner
  [ -x "$SYSTEM/opt/jepa/bin/python" ] || inside 0 /usr/bin/python3 -m venv /opt/jepa
  inside 0 pip install -q ".[onnxruntime]" ./sim pytest pytest-timeout hypothesis onnx perfetto psutil mcap-ros2-support
}

[ -n "${ARM64_INSIDE:-}" ] || enter_namespace "$@"
register_qemu
[ -d "$SYSTEM/src" ] || unpack
for name in dev proc sys; do mount --rbind /$name "$SYSTEM/$name"; done
say "Debian for arm64 is unpacked in $SYSTEM"
install_runtime
say "$(inside 0 python -c 'import platform as p; print("jepa-edge is installed:", p.machine(), "Python", p.python_version())')"
# Not as root, which has fewer rights in a user namespace than the tests expect.
inside 1000 python -m pytest -p no:cacheprovider --timeout=600 "${NOT_UNDER_QEMU[@]/#/--deselect=tests/runtime/}" tests/runtime "$@"
