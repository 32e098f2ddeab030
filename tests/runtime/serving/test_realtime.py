"""Real-time settings: outcome and reason of each, in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.realtime import RealtimeSettings
from tests.errors import code

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its privileges up")
needs_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only")

_PRELUDE = """
import gc, json, os, resource, threading
# Before privileges are dropped: the interpreter may lie where other accounts cannot read.
import numpy
from jepa_runtime.serving import realtime
from jepa_runtime.serving.realtime import RealtimeSettings

cores = sorted(os.sched_getaffinity(0))
own = threading.get_native_id

def locked_kb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))

def on_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]

def apply(**settings):
    return [vars(applied) for applied in realtime.apply(RealtimeSettings(**settings))]
"""

_WITHOUT_PRIVILEGES = """
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
os.setgroups([])
os.setuid(65534)
"""


def child(code: str, *, privileged: bool = True) -> Any:
    """Run ``code`` in a separate process and return its ``result``."""
    parts = [_PRELUDE, "" if privileged else _WITHOUT_PRIVILEGES, code, "print(json.dumps(result))"]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_default_options_change_nothing() -> None:
    result = child("result = [apply(), cores == sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0)]")
    assert result == [[], True, os.SCHED_OTHER]


@needs_cores
def test_inference_thread_and_its_children_get_its_cores_and_all_others_the_rest() -> None:
    result = child("""
stay, waiting = threading.Event(), threading.Thread(target=lambda: stay.wait())
waiting.start()

def inference():
    applied = apply(cpu_affinity=(cores[-1],))
    started = on_a_thread(lambda: sorted(os.sched_getaffinity(0)))
    return applied, sorted(os.sched_getaffinity(0)), started

applied, mine, started = on_a_thread(inference)
others = [sorted(os.sched_getaffinity(thread)) for thread in (os.getpid(), waiting.native_id)]
realtime.revert(RealtimeSettings(cpu_affinity=(cores[-1],)))
undone = [sorted(os.sched_getaffinity(thread)) for thread in (os.getpid(), waiting.native_id)]
stay.set()
result = dict(cores=cores, applied=applied, mine=mine, started=started, others=others, undone=undone)
""")
    *rest, last = result["cores"]
    assert result["applied"] == [
        {"name": "cpu_affinity", "value": f"cores {last}", "achieved": True, "reason": ""}
    ]
    assert result["mine"] == result["started"] == [last]
    assert result["others"] == [rest, rest]
    assert result["undone"] == [result["cores"]] * 2


@needs_cores
def test_later_threads_are_moved_and_exited_ones_ignored() -> None:
    applied, affinity, policy, last = child("""
later = threading.Thread(target=threading.Event().wait, daemon=True)
later.start()
settings = RealtimeSettings(cpu_affinity=(cores[-1],), fifo_priority=7)
applied = on_a_thread(lambda: [each.achieved for each in realtime.apply(settings)])
realtime.apply_to_threads(settings, [on_a_thread(own), later.native_id])
thread = later.native_id
result = [applied, sorted(os.sched_getaffinity(thread)), os.sched_getscheduler(thread), cores[-1]]
""")
    assert affinity == [last]
    assert policy == (os.SCHED_FIFO if applied[1] else os.SCHED_OTHER)


def test_unavailable_cores_are_named_and_nothing_changes() -> None:
    result = child("""
applied = apply(cpu_affinity=(cores[0], 1023))
result = [applied, cores == sorted(os.sched_getaffinity(0))]
""")
    (applied,), unchanged = result
    assert not applied["achieved"] and unchanged
    assert "not 1023" in applied["reason"] and "AllowedCPUs" in applied["reason"]


def test_priority_is_set_or_the_reason_reported() -> None:
    (applied,), policy, priority, of_others = child("""
result = on_a_thread(lambda: [
    apply(fifo_priority=7), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority,
    os.sched_getscheduler(os.getpid()),
])
""")
    assert of_others == os.SCHED_OTHER, "only the inference thread's"
    if applied["achieved"]:
        assert (policy, priority) == (os.SCHED_FIFO, 7)
    else:
        assert policy == os.SCHED_OTHER and "LimitRTPRIO=7" in applied["reason"]


@needs_root
def test_priority_without_the_privilege_is_refused_with_the_remedy() -> None:
    (applied,), policy = child(
        "result = [apply(fifo_priority=7), os.sched_getscheduler(0)]", privileged=False
    )
    assert not applied["achieved"] and policy == os.SCHED_OTHER
    for remedy in ("LimitRTPRIO=7", "ulimit -r 7", "CAP_SYS_NICE"):
        assert remedy in applied["reason"]


def test_memory_is_locked_or_the_reason_reported() -> None:
    (applied,), locked_kb, unlocked_kb, limits_kept = child("""
limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
applied, locked = apply(lock_memory=True), locked_kb()
retained = limits[1] == resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
more = bytearray(64 << 20)
realtime.revert(RealtimeSettings(lock_memory=True))
result = [applied, locked, locked_kb(), retained]
""")
    assert applied["achieved"] == (locked_kb > 1000)
    assert applied["achieved"] or "LimitMEMLOCK=infinity" in applied["reason"]
    assert unlocked_kb == 0 and limits_kept


@needs_root
def test_memory_is_not_locked_below_a_limit_that_later_allocations_would_exceed() -> None:
    (applied,), locked_kb, limits = child(
        """
applied = apply(lock_memory=True)
result = [applied, locked_kb(), resource.getrlimit(resource.RLIMIT_MEMLOCK)]
""",
        privileged=False,
    )
    assert not applied["achieved"] and locked_kb == 0
    assert "64 KiB" in applied["reason"] and "ulimit -l unlimited" in applied["reason"]
    assert limits == [1 << 16, 1 << 16]


def test_retained_heap_avoids_page_faults_of_large_arrays() -> None:
    """Arrays of an image's size, freed together: without the setting their pages fault each time."""
    code = """
def faults_of_images():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        images = [bytearray(b"x") * 900_000 for _ in range(4)]
        del images
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_images()
given_back = faults_of_images()
applied = apply(keep_heap=True)
faults_of_images()
retained = faults_of_images()
with realtime.in_background():
    aside = faults_of_images()
faults_of_images()
result = [applied, given_back, retained, aside, faults_of_images()]
"""
    (applied,), given_back, stored, aside, kept_again = child(code)
    if not applied["achieved"]:
        pytest.skip(applied["reason"])
    assert given_back > 1000 and stored < 100
    assert aside > 1000 and kept_again < 100, "a model opened or closed next to another leaves no holes"


def test_objects_alive_after_the_warm_up_are_excluded_from_collection_until_restored() -> None:
    frozen, thawed = child("""
realtime.release_startup_memory()
frozen = gc.get_freeze_count()
realtime.revert(RealtimeSettings())
result = [frozen, gc.get_freeze_count()]
""")
    assert frozen > 1000 and thawed == 0


def test_weights_use_huge_pages_and_untouched_memory_is_not_loaded() -> None:
    code = """
import mmap

def anonymous(name):
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(name))

weights = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
weights[:] = bytes(range(256)) * (64 << 12)
reserved = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
reserved[:: 2 * mmap.PAGESIZE] = b"x" * (64 << 20 >> 13)
before = anonymous("Rss"), anonymous("AnonHugePages")
joined = realtime.collapse_huge_pages()
same = weights[:] == bytes(range(256)) * (64 << 12)
result = [before, joined, anonymous("Rss"), anonymous("AnonHugePages"), same]
"""
    (rss, huge), joined, rss_after, huge_after, same = child(code)
    assert same
    if not joined:
        pytest.skip("this system joins no pages when asked")
    assert huge < 8 and 60 <= huge_after == 2 * joined
    assert rss_after - rss < 8


@needs_root
def test_process_without_access_to_its_pages_continues_without_huge_pages() -> None:
    assert child("result = realtime.collapse_huge_pages()", privileged=False) == 0


def test_pages_of_files_leave_memory_and_can_be_read_again() -> None:
    code = """
import mmap, tempfile

def resident_kb(name):
    lines = iter(open("/proc/self/smaps").read().splitlines())
    next(line for line in lines if line.endswith(name))
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

with tempfile.NamedTemporaryFile() as file:
    file.write(b"w" * (1 << 20))
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read = len(bytes(mapped))
    before = resident_kb(file.name)
    realtime.release_startup_memory()
    result = [before, resident_kb(file.name), mapped[:] == b"w" * read]
"""
    before, after, same = child(code)
    assert before == 1024 and after == 0 and same


_LIBRARIES = """
import cv2, numpy

def of_files():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssFile"))

def work():
    image = numpy.arange(480 * 640 * 3, dtype=numpy.uint8).reshape(480, 640, 3)
    return int(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(int).sum())

worked = work()
before = of_files()
"""


def test_code_used_only_at_startup_leaves_memory_and_everything_works() -> None:
    code = """
realtime.release_startup_memory()
result = [before, of_files(), work() == worked]
"""
    before, after, same = child(_LIBRARIES + code)
    assert same and after < before / 2


def test_released_libraries_can_be_unloaded() -> None:
    code = """
import _ctypes, ctypes, os
path = os.path.realpath(numpy.linalg._umath_linalg.__file__.replace("_umath_linalg", "lapack_lite"))
library = ctypes.CDLL(path)
loaded = path in open("/proc/self/maps").read()
realtime.release_files()
_ctypes.dlclose(library._handle)
result = [loaded, path in open("/proc/self/maps").read()]
"""
    assert child(_LIBRARIES + code) == [True, False]


def test_locked_memory_is_not_released() -> None:
    code = """
applied, = apply(lock_memory=True)
work()
before = of_files()
realtime.release_startup_memory()
result = [applied, before, of_files()]
"""
    applied, before, after = child(_LIBRARIES + code)
    if not applied["achieved"]:
        pytest.skip(applied["reason"])
    assert after >= before


@needs_root
def test_process_without_privileges_releases_what_it_can() -> None:
    code = """
realtime.release_startup_memory()
result = work() == worked
"""
    assert child(_LIBRARIES + code, privileged=False)


def test_opencv_thread_with_normal_priority_is_not_waited_for() -> None:
    before, meanwhile, after = child(
        """
import cv2
count = cv2.getNumThreads
result = [count()]
realtime.apply(RealtimeSettings(fifo_priority=7))
result.append(count())
realtime.revert(RealtimeSettings(fifo_priority=7))
result.append(count())
"""
    )
    assert meanwhile == 1 and before == after


@pytest.mark.parametrize("wrong", [{"cpu_affinity": (-1,)}, {"fifo_priority": 100}, {"fifo_priority": -1}])
def test_invalid_settings_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(JepaRuntimeError, check=code("realtime.invalid_setting")):
        RealtimeSettings(**wrong)


_LOWER_PRIORITY = """
ended = threading.Event()
other = threading.Thread(target=ended.wait)

def work():
    with realtime.in_background():
        other.start()
        during = [policy(own()), policy(other.native_id)]
    return during + [policy(own()), policy(other.native_id)]

policy = os.sched_getscheduler
result = on_a_thread(work) + [policy(own())]
ended.set()
"""


# Independent of other load.
_WITH_TIME_LEFT = "realtime._idle_cores = lambda: 1.0\n"

# Other processes use every core all the time; they end with the one that started them.
_WITH_OTHER_LOAD = """
import subprocess, sys

busy = "import os; parent = os.getppid()\\nwhile os.getppid() == parent: pass"
others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * len(cores))]
"""


@needs_root
def test_low_priority_thread_is_restored_with_its_children() -> None:
    idle, usual = os.SCHED_IDLE, os.SCHED_OTHER
    assert child(_WITH_TIME_LEFT + _LOWER_PRIORITY) == [idle, idle, usual, usual, usual]


@needs_root
def test_thread_that_could_not_be_restored_keeps_its_priority() -> None:
    assert child(_WITH_TIME_LEFT + _LOWER_PRIORITY, privileged=False) == [os.SCHED_OTHER] * 5


@needs_root
def test_thread_without_an_idle_core_keeps_its_share() -> None:
    assert child(_WITH_OTHER_LOAD + _LOWER_PRIORITY) == [os.SCHED_OTHER] * 5


@needs_root
def test_real_time_thread_loses_its_priority_while_lowered() -> None:
    first = "    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\n    with realtime"
    code = _WITH_OTHER_LOAD + _LOWER_PRIORITY.replace("    with realtime", first)
    other, fifo = os.SCHED_OTHER, os.SCHED_FIFO
    assert child(code) == [other, other, fifo, fifo, other]
