"""Real-time settings of this process: on which cores and with which priority the inference thread runs, and
what the rest of the process may do to it.

Nothing is applied silently and nothing fails: whoever calls learns of every setting whether it took effect
and, if not, what to do. Linux alone is supported.
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

# From <sys/mman.h>. ONFAULT locks pages once they are touched: what engines reserve and never use stays free.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MADV_DONTNEED, _MADV_COLLAPSE = 4, 25
_HUGE_PAGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
# Huge pages take memory that was never touched: as little as that.
_DENSE = 0.9
# Bytes of /proc/self/pagemap for each page.
_ENTRY = 8
# A stretch in /proc/self/smaps: addresses, permissions, name, and what was written to of it.
_AREA = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)\n(?:(?!Anonymous).*\n)+Anonymous: +(\d+)", re.M
)
# From <malloc.h>; 32 MiB is the largest threshold of mmap that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 32 << 20, 512 << 20
# What glibc begins with.
_GIVEN_BACK = 128 << 10, 128 << 10
_heap_is_kept = False
_OPENCV_CHOOSES = -1
# Of a core: with less of it idle, what runs only then hardly runs at all.
_SPARE = 0.25

# Before anything narrows it: the cores on which this process may run.
_AVAILABLE = frozenset(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class RealtimeSettings:
    """What is wanted; the defaults change nothing.

    Attributes:
        cpu_affinity: cores of the inference thread and of the threads that its engine starts; the other
            threads of the process keep to the remaining cores, if any remain.
        fifo_priority: 1 to 99: SCHED_FIFO with that priority for those threads; 0: the usual scheduling.
            OpenCV, whose own threads keep that, then computes on the thread that calls it.
        lock_memory: keep every page that the process has touched in memory.
        keep_heap: let the C library keep what is freed. By default it gives the memory of large arrays back
            to the system, and each image then pays for its pages again, with hundreds of page faults.

    Raises:
        JepaRuntimeError: a value is out of range.
    """

    cpu_affinity: tuple[int, ...] = ()
    fifo_priority: int = 0
    lock_memory: bool = False
    keep_heap: bool = False

    def __post_init__(self) -> None:
        if any(core < 0 for core in self.cpu_affinity):
            raise JepaRuntimeError(f"cpu_affinity must be numbers of cores, got {list(self.cpu_affinity)}")
        if not 0 <= self.fifo_priority <= 99:
            raise JepaRuntimeError(f"fifo_priority must be 0 (off) to 99, got {self.fifo_priority}")


@dataclass(frozen=True)
class Applied:
    """What became of one setting: ``reason`` says why it was not ``achieved``, and what to do."""

    name: str
    wanted: str
    achieved: bool
    reason: str = ""

    def __str__(self) -> str:
        return self.wanted if self.achieved else f"not {self.wanted}: {self.reason}"


def apply(settings: RealtimeSettings) -> list[Applied]:
    """Apply what is wanted, and say what came of it.

    Call it on the inference thread before the engine is opened there: threads inherit cores and priority from
    the one that starts them. No engine here pins threads itself.
    """
    applied = []
    if settings.cpu_affinity:
        cores = sorted(set(settings.cpu_affinity))
        applied.append(_applied("cpu_affinity", f"cores {_list(cores)}", _pin(set(cores))))
    if settings.fifo_priority:
        cv2.setNumThreads(1)
        wanted = f"SCHED_FIFO {settings.fifo_priority}"
        applied.append(_applied("fifo_priority", wanted, _schedule(settings.fifo_priority)))
    if settings.lock_memory:
        applied.append(_applied("lock_memory", "locked", _lock_memory()))
    if settings.keep_heap:
        applied.append(_applied("keep_heap", "kept", _keep_heap()))
    return applied


def threads() -> set[int]:
    """The threads of this process, as the system numbers them."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def join(settings: RealtimeSettings, which: Iterable[int]) -> None:
    """Let threads run as :func:`apply` lets the calling one: those of a model that was opened while another
    served. What could not be applied then cannot be now."""
    for thread in which:
        with suppress(OSError):
            if settings.cpu_affinity:
                os.sched_setaffinity(thread, settings.cpu_affinity)
            if settings.fifo_priority:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(settings.fifo_priority))


@contextmanager
def aside() -> Iterator[None]:
    """Let everything else come first meanwhile (SCHED_IDLE): the calling thread, those that start too; let
    memory that is freed go back to the system, see :func:`_give_back`.

    A thread of the weakest niceness would not do: whoever wakes up waits for the end of its time slice, 3 to
    4 ms on Linux 6.18, while one that idles makes way at once. Where the system would not let them come back
    (RLIMIT_NICE), their scheduling is left alone.

    Where the cores have no time left, what idles gets none: a thread that held the interpreter's lock then
    kept those that serve waiting for up to 1.5 s. There they take an equal share instead (SCHED_OTHER).
    """
    before, usual = threads(), (os.sched_getscheduler(0), os.sched_getparam(0))
    policy = os.SCHED_IDLE if _idle_cores() >= _SPARE else os.SCHED_OTHER
    comes_back = _may_come_back(policy, *usual)
    if comes_back:
        os.sched_setscheduler(0, policy, os.sched_param(0))
    try:
        with _give_back():
            yield
    finally:
        for thread in {0} | (threads() - before) if comes_back else ():
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, *usual)


def make_way() -> None:
    """Let everything else come before the calling thread, and before those that it starts, from now on
    (SCHED_IDLE)."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def undo(settings: RealtimeSettings) -> None:
    """Give cores, locked memory and garbage collection back; the priority ends with its thread, and the heap
    stays as it is."""
    if settings.cpu_affinity:
        _pin_threads(threads(), _AVAILABLE)
    if settings.lock_memory:
        ctypes.CDLL(None).munlockall()
    if settings.fifo_priority:
        cv2.setNumThreads(_OPENCV_CHOOSES)
    gc.unfreeze()


def settle() -> None:
    """Give back what opening the model took and serving does not need. Call it after the warm-up.

    What exists now also leaves the garbage collector's sight: a full collection then goes through what came
    since, and not through every object of every module."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    release_files()


def release_files() -> None:
    """Give back what is in memory of files and can be read from them again: files mapped to be read only, as
    OpenVINO maps its cache, and code and constants of libraries.

    Of 113 MB of libraries, a node with a ViT-S takes 22 once it serves: the rest is Python's, OpenVINO's and
    OpenCV's way to get there. What is used comes back page by page, from the system's cache of files as long
    as that has room. Memory that is locked stays."""
    libc = ctypes.CDLL(None)
    # Some kernels do not tell (CONFIG_PROC_PAGE_MONITOR): then all stays.
    with suppress(OSError), _libraries() as libraries:
        for area in _areas():
            of_library = area.name in libraries and "w" not in area.permissions and not area.written_kb
            if of_library or area.permissions == "r--s":
                start, size = ctypes.c_void_p(area.start), ctypes.c_size_t(area.end - area.start)
                libc.madvise(start, size, _MADV_DONTNEED)


def join_pages() -> int:
    """Let memory that is in use lie in huge pages, where the system joins pages when asked (Linux 6.1).

    For every image an engine reads all weights, and the processor looks up where each page lies. Most systems
    give huge pages to those alone who ask. It took 1 to 3 % off the time of a ViT-S encoder.

    Returns:
        How many huge pages there are now; 0 too where this process may not look at its own pages.
    """
    joined = 0
    with suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        huge = int(_HUGE_PAGE.read_text(encoding="utf-8"))
        libc, held = ctypes.CDLL(None), huge // mmap.PAGESIZE
        for area in _areas():
            # Heaps and what engines map: memory that belongs to no file.
            if area.permissions != "rw-p" or area.name not in ("", "[heap]"):
                continue
            for at in range(-(-area.start // huge) * huge, area.end - huge + 1, huge):
                pagemap.seek(at // mmap.PAGESIZE * _ENTRY)
                # The highest bit of an entry, the last of its bytes, says that the page is there.
                there = sum(byte >> 7 for byte in pagemap.read(held * _ENTRY)[_ENTRY - 1 :: _ENTRY])
                if there >= _DENSE * held:
                    where = ctypes.c_void_p(at), ctypes.c_size_t(huge)
                    joined += libc.madvise(*where, _MADV_COLLAPSE) == 0
    return joined


@dataclass(frozen=True)
class _Area:
    """A stretch of this process's memory: of which file, and how much of it is not as in the file."""

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
    """The files of the libraries that this process has loaded. None is unloaded meanwhile: what lies at its
    addresses next would not be a file's."""
    held = {}
    try:
        for name in {area.name for area in _areas() if "x" in area.permissions and area.name[:1] == "/"}:
            # Refused for what is no library.
            with suppress(OSError):
                held[name] = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)._handle
        yield set(held)
    finally:
        for handle in held.values():
            _ctypes.dlclose(handle)


def _idle_cores() -> float:
    """How many of the calling thread's cores have nothing to do, in the mean of a tenth of a second."""
    began, idle = time.monotonic(), idle_s()
    time.sleep(0.1)
    return (idle_s() - idle) / (time.monotonic() - began)


def idle_s() -> float:
    """For how long the calling thread's cores have had nothing to do since the system started, all together.

    Raises:
        OSError: the system does not tell.
    """
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = map(str.split, Path("/proc/stat").read_text(encoding="ascii").splitlines())
    return sum(int(line[4]) for line in lines if line[0] in names) / os.sysconf("SC_CLK_TCK")


def _may_come_back(through: int, policy: int, parameter: os.sched_param) -> bool:
    """Whether a thread may return to ``policy`` after it stepped back to another: one that ends with it
    tries."""

    def step_back() -> bool:
        os.sched_setscheduler(0, through, os.sched_param(0))
        with suppress(PermissionError):
            os.sched_setscheduler(0, policy, parameter)
        return os.sched_getscheduler(0) == policy

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(step_back).result()


def _applied(name: str, wanted: str, reason: str) -> Applied:
    return Applied(name, wanted, not reason, reason)


def _pin(cores: set[int]) -> str:
    """Why the calling thread is not on ``cores`` alone; empty if it is."""
    missing = cores - _AVAILABLE
    if missing:
        return (
            f"this process may use the cores {_list(_AVAILABLE)} and not {_list(missing)}: choose among"
            " those, or widen its cpuset (AllowedCPUs= of systemd, --cpuset-cpus of docker, taskset)"
        )
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        return f"the system refused it: {error.strerror}"
    rest = _AVAILABLE - cores
    if rest:
        own = threading.get_native_id()
        _pin_threads((thread for thread in threads() if thread != own), rest)
    return ""


def _schedule(priority: int) -> str:
    """Why the calling thread is not under SCHED_FIFO; empty if it is."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        most = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        return (
            f"not permitted: this process may go up to priority {most}; give it LimitRTPRIO={priority}"
            f" (systemd), ulimit -r {priority}, or the capability CAP_SYS_NICE (docker: --cap-add SYS_NICE)"
        )
    return ""


def _lock_memory() -> str:
    """Why memory is not locked; empty if it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = hard == resource.RLIM_INFINITY
    # Below a limit locking may succeed now, and an allocation fail later. A limit of zero lets only those
    # pass whom no limit binds (CAP_IPC_LOCK).
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY if unlimited else 0, hard))
    libc = ctypes.CDLL(None, use_errno=True)
    locked = libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    error = os.strerror(ctypes.get_errno())
    if not unlimited:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    if locked:
        return ""
    return (
        f"{error}; this process may lock {hard >> 10} KiB and must be allowed all: LimitMEMLOCK=infinity"
        " (systemd), ulimit -l unlimited, or --ulimit memlock=-1 (docker)"
    )


def _keep_heap() -> str:
    """Why the heap is given back; empty if it is kept."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        return "this C library has no mallopt: it takes glibc"
    if not _set_thresholds(_KEPT):
        return "mallopt refused it: is another allocator preloaded?"
    global _heap_is_kept
    _heap_is_kept = True
    return ""


@contextmanager
def _give_back() -> Iterator[None]:
    """A heap that is kept is given back meanwhile: what models leave of it when they come and go is holes, of
    which the next one fills too few (20 MB more after 50 of them)."""
    if _heap_is_kept:
        _set_thresholds(_GIVEN_BACK)
    try:
        yield
    finally:
        if _heap_is_kept:
            _set_thresholds(_KEPT)


def _set_thresholds(thresholds: tuple[int, int]) -> bool:
    mallopt = ctypes.CDLL(None).mallopt
    names = (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    return all([mallopt(name, size) for name, size in zip(names, thresholds, strict=True)])


def _pin_threads(which: Iterable[int], cores: Iterable[int]) -> None:
    for thread in which:
        # A thread may end at any moment.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)


def _list(cores: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
