"""Real-time settings of this process: cores and priority of the inference thread, and memory.

No setting is applied silently and none fails: the result of each reports whether it took effect and, if not,
what to do. Only Linux is supported.
"""

from __future__ import annotations

import _ctypes
import ctypes
import gc
import mmap
import os
import re
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.opencv import cv2

# From <sys/mman.h>. ONFAULT locks pages once they are touched; memory that engines reserve but never use
# stays free.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MADV_DONTNEED, _MADV_COLLAPSE = 4, 25
_HUGE_PAGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
# A range is collapsed if this proportion of its pages is in use, to limit the additional memory.
_MIN_PRESENT = 0.9
# Bytes of /proc/self/pagemap for each page.
_PAGEMAP_ENTRY = 8
# A mapping in /proc/self/smaps: addresses, permissions, name, and its anonymous memory.
_AREA = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)\n(?:(?!Anonymous).*\n)+Anonymous: +(\d+)", re.M
)
# From <malloc.h>; 32 MiB is the largest threshold of mmap that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_RETAINING = 32 << 20, 512 << 20
# The defaults of glibc.
_DEFAULT = 128 << 10, 128 << 10
_heap_is_retained = False
_OPENCV_DEFAULT = -1
# Idle cores below which SCHED_IDLE threads hardly run at all.
_MIN_IDLE_CORES = 0.25

# Cores on which this process may run, read before any setting reduces them.
_AVAILABLE = frozenset(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class RealtimeSettings:
    """Requested settings; the defaults change nothing.

    Attributes:
        cpu_affinity: Cores of the inference thread and of the threads that its engine starts. The other
            threads of the process are moved to the remaining cores, if there are any.
        fifo_priority: SCHED_FIFO priority (1 to 99) of those threads; 0: normal scheduling. OpenCV, whose
            threads keep normal scheduling, then computes on the calling thread.
        lock_memory: Lock every page that the process has touched.
        keep_heap: Let the C library retain freed memory. By default it returns the memory of large arrays to
            the system, and each image then causes hundreds of page faults.

    Raises:
        JepaRuntimeError: A value is out of range.
    """

    cpu_affinity: tuple[int, ...] = ()
    fifo_priority: int = 0
    lock_memory: bool = False
    keep_heap: bool = False

    def __post_init__(self) -> None:
        if any(core < 0 for core in self.cpu_affinity):
            raise JepaRuntimeError(
                f"cpu_affinity must be core numbers, got {list(self.cpu_affinity)}",
                code="realtime.invalid_setting",
            )
        if not 0 <= self.fifo_priority <= 99:
            raise JepaRuntimeError(
                f"fifo_priority must be 0 (off) to 99, got {self.fifo_priority}",
                code="realtime.invalid_setting",
            )


@dataclass(frozen=True)
class AppliedSetting:
    """Outcome of one setting.

    Attributes:
        name: Name of the setting.
        value: The requested value.
        achieved: Whether it took effect.
        reason: Why it did not, and what to do.
    """

    name: str
    value: str
    achieved: bool
    reason: str = ""

    def __str__(self) -> str:
        return self.value if self.achieved else f"not {self.value}: {self.reason}"


def apply(settings: RealtimeSettings) -> list[AppliedSetting]:
    """Apply the settings and return the outcome of each.

    Call it on the inference thread before the engine is opened there: threads inherit cores and priority from
    the thread that starts them. No engine of this package pins threads itself.
    """
    applied = []
    if settings.cpu_affinity:
        cores = sorted(set(settings.cpu_affinity))
        applied.append(_applied("cpu_affinity", f"cores {_list(cores)}", _pin(set(cores))))
    if settings.fifo_priority:
        cv2.setNumThreads(1)
        value = f"SCHED_FIFO {settings.fifo_priority}"
        applied.append(_applied("fifo_priority", value, _schedule(settings.fifo_priority)))
    if settings.lock_memory:
        applied.append(_applied("lock_memory", "locked", _lock_memory()))
    if settings.keep_heap:
        applied.append(_applied("keep_heap", "retained", _retain_heap()))
    return applied


def threads() -> set[int]:
    """Return the native ids of the threads of this process."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def apply_to_threads(settings: RealtimeSettings, thread_ids: Iterable[int]) -> None:
    """Apply cores and priority to threads, such as those of a model opened in the background.

    Settings that :func:`apply` could not apply are skipped.
    """
    for thread in thread_ids:
        with suppress(OSError):
            if settings.cpu_affinity:
                os.sched_setaffinity(thread, settings.cpu_affinity)
            if settings.fifo_priority:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(settings.fifo_priority))


@contextmanager
def in_background() -> Iterator[None]:
    """Run the calling thread, and those that it starts, with SCHED_IDLE meanwhile.

    Freed memory is returned to the system, see :func:`_release_heap`.

    The highest niceness would not suffice: a waking thread waits for the end of its time slice, 3 to 4 ms on
    Linux 6.18, while a SCHED_IDLE thread is preempted at once. If the system does not permit a return to
    normal scheduling (RLIMIT_NICE), scheduling is not changed.

    On busy cores SCHED_IDLE threads do not run at all: one that held the interpreter lock then delayed the
    serving threads by up to 1.5 s. There SCHED_OTHER is used instead.
    """
    before, normal = threads(), (os.sched_getscheduler(0), os.sched_getparam(0))
    policy = os.SCHED_IDLE if _idle_cores() >= _MIN_IDLE_CORES else os.SCHED_OTHER
    can_return = _can_return(policy, *normal)
    if can_return:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    try:
        with _release_heap():
            yield
    finally:
        for thread in {0} | (threads() - before) if can_return else ():
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, *normal)


def stay_in_background() -> None:
    """Run the calling thread, and those that it starts, with SCHED_IDLE from now on."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def revert(settings: RealtimeSettings) -> None:
    """Revert cores, locked memory and garbage collection.

    The priority ends with its thread; the heap stays as it is.
    """
    if settings.cpu_affinity:
        _pin_threads(threads(), _AVAILABLE)
    if settings.lock_memory:
        ctypes.CDLL(None).munlockall()
    if settings.fifo_priority:
        cv2.setNumThreads(_OPENCV_DEFAULT)
    gc.unfreeze()


def release_startup_memory() -> None:
    """Release memory that was needed only to open the model. Call it after the warm-up.

    Existing objects are also excluded from garbage collection, so that a full collection visits only newer
    ones.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    release_files()


def release_files() -> None:
    """Release file-backed memory: read-only mappings, such as OpenVINO's cache, and libraries.

    Of 113 MB of libraries, a node with a ViT-S needs 22 MB once it serves; the rest is used at startup. Pages
    in use return one by one, from the page cache if it has room. Locked memory stays.
    """
    libc = ctypes.CDLL(None)
    # Kernels without CONFIG_PROC_PAGE_MONITOR do not report mappings; then nothing is released.
    with suppress(OSError), _libraries() as libraries:
        for area in _areas():
            of_library = area.name in libraries and "w" not in area.permissions and not area.written_kb
            if of_library or area.permissions == "r--s":
                start, size = ctypes.c_void_p(area.start), ctypes.c_size_t(area.end - area.start)
                libc.madvise(start, size, _MADV_DONTNEED)


def collapse_huge_pages() -> int:
    """Collapse memory in use into huge pages (Linux 6.1 or later).

    An engine reads all weights for every image, and most systems use huge pages only on request. This reduced
    the time of a ViT-S encoder by 1 to 3 %.

    Returns:
        The number of huge pages; also 0 if this process may not read its page map.
    """
    collapsed = 0
    with suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        huge = int(_HUGE_PAGE.read_text(encoding="utf-8"))
        libc, pages = ctypes.CDLL(None), huge // mmap.PAGESIZE
        for area in _areas():
            # Heaps and anonymous mappings of engines.
            if area.permissions != "rw-p" or area.name not in ("", "[heap]"):
                continue
            for at in range(-(-area.start // huge) * huge, area.end - huge + 1, huge):
                pagemap.seek(at // mmap.PAGESIZE * _PAGEMAP_ENTRY)
                # The highest bit of an entry, in its last byte, means that the page is present.
                present = sum(
                    byte >> 7
                    for byte in pagemap.read(pages * _PAGEMAP_ENTRY)[_PAGEMAP_ENTRY - 1 :: _PAGEMAP_ENTRY]
                )
                if present >= _MIN_PRESENT * pages:
                    where = ctypes.c_void_p(at), ctypes.c_size_t(huge)
                    collapsed += libc.madvise(*where, _MADV_COLLAPSE) == 0
    return collapsed


@dataclass(frozen=True)
class _Area:
    """A memory mapping of this process: its file, and how much of it was written to."""

    start: int
    end: int
    permissions: str
    name: str
    written_kb: int


def _areas() -> list[_Area]:
    text = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    return [
        _Area(int(found[1], 16), int(found[2], 16), found[3], found[4], int(found[5]))
        for found in _AREA.finditer(text)
    ]


@contextmanager
def _libraries() -> Iterator[set[str]]:
    """Yield the files of all loaded libraries, and prevent that one is unloaded meanwhile."""
    handles = {}
    try:
        for name in {area.name for area in _areas() if "x" in area.permissions and area.name[:1] == "/"}:
            # Fails for files that are not libraries.
            with suppress(OSError):
                handles[name] = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)._handle
        yield set(handles)
    finally:
        for handle in handles.values():
            _ctypes.dlclose(handle)


def _idle_cores() -> float:
    """Return the mean number of idle cores of the calling thread over 0.1 s."""
    began, idle = time.monotonic(), idle_s()
    time.sleep(0.1)
    return (idle_s() - idle) / (time.monotonic() - began)


def idle_s() -> float:
    """Return the total idle time of the calling thread's cores since the system started.

    Raises:
        OSError: The system does not report it.
    """
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = map(str.split, Path("/proc/stat").read_text(encoding="ascii").splitlines())
    return sum(int(line[4]) for line in lines if line[0] in names) / os.sysconf("SC_CLK_TCK")


def _can_return(through: int, policy: int, parameter: os.sched_param) -> bool:
    """Return whether a thread may return to ``policy`` from another one, by trying it on a new thread."""

    def try_return() -> bool:
        os.sched_setscheduler(0, through, os.sched_param(0))
        with suppress(PermissionError):
            os.sched_setscheduler(0, policy, parameter)
        return os.sched_getscheduler(0) == policy

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(try_return).result()


def _applied(name: str, value: str, reason: str) -> AppliedSetting:
    return AppliedSetting(name, value, not reason, reason)


def _pin(cores: set[int]) -> str:
    """Return why the calling thread is not pinned to ``cores``; empty: it is."""
    missing = cores - _AVAILABLE
    if missing:
        return (
            f"this process may use cores {_list(_AVAILABLE)} but not {_list(missing)}: choose other cores, or"
            " extend its cpuset (AllowedCPUs= of systemd, --cpuset-cpus of docker, taskset)"
        )
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return f"the system call failed: {error.strerror}"
    rest = _AVAILABLE - cores
    if rest:
        own = threading.get_native_id()
        _pin_threads((thread for thread in threads() if thread != own), rest)
    return ""


def _schedule(priority: int) -> str:
    """Return why the calling thread is not scheduled as SCHED_FIFO; empty: it is."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        return (
            f"not permitted: the highest permitted priority is {limit}: set LimitRTPRIO={priority} (systemd),"
            f" ulimit -r {priority}, or the capability CAP_SYS_NICE (docker: --cap-add SYS_NICE)"
        )
    return ""


def _lock_memory() -> str:
    """Return why memory is not locked; empty: it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = hard == resource.RLIM_INFINITY
    # With a limit, locking may succeed now and an allocation fail later. With a limit of zero only processes
    # with CAP_IPC_LOCK succeed.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY if unlimited else 0, hard))
    libc = ctypes.CDLL(None, use_errno=True)
    locked = libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    error = os.strerror(ctypes.get_errno())
    if not unlimited:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    if locked:
        return ""
    return (
        f"{error}: the limit is {hard >> 10} KiB and must be unlimited: set LimitMEMLOCK=infinity (systemd),"
        " ulimit -l unlimited, or --ulimit memlock=-1 (docker)"
    )


def _retain_heap() -> str:
    """Return why the heap is not retained; empty: it is."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        return "this C library has no mallopt: glibc is required"
    if not _set_thresholds(_RETAINING):
        return "mallopt failed: is another allocator preloaded?"
    global _heap_is_retained
    _heap_is_retained = True
    return ""


@contextmanager
def _release_heap() -> Iterator[None]:
    """Return freed memory to the system meanwhile, even if the heap is retained.

    Otherwise swapped models fragment the heap (20 MB more after 50 swaps).
    """
    if _heap_is_retained:
        _set_thresholds(_DEFAULT)
    try:
        yield
    finally:
        if _heap_is_retained:
            _set_thresholds(_RETAINING)


def _set_thresholds(thresholds: tuple[int, int]) -> bool:
    mallopt = ctypes.CDLL(None).mallopt
    names = (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    return all([mallopt(name, size) for name, size in zip(names, thresholds, strict=True)])


def _pin_threads(thread_ids: Iterable[int], cores: Iterable[int]) -> None:
    for thread in thread_ids:
        # A thread may end at any time.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)


def _list(cores: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
