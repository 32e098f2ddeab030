"""The parameters of the world_model node."""

from __future__ import annotations

from jepa_ros.parameters import REPORT_PATH, Parameter

PARAMETERS = (
    Parameter(name="bundle", default="", description="Folder of the model bundle.", when_unconfigured=True),
    Parameter(
        name="engine",
        default="openvino:CPU",
        description="Engine and device that run the model; several, the preferred first, if one may take the "
        "other's place: openvino:NPU,openvino:CPU.",
        when_unconfigured=True,
    ),
    Parameter(
        name="precision",
        default="",
        description="int8, fp16 or fp32; empty: the first of the bundle that the engine can run.",
        choices=("", "int8", "fp16", "fp32"),
        when_unconfigured=True,
    ),
    Parameter(
        name="num_samples",
        default=0,
        description="Candidate action sequences followed per image; 0: as many as the bundle says.",
        low=0,
        high=65536,
        when_unconfigured=True,
    ),
    Parameter(
        name="threads",
        default=1,
        description="Threads of the inference engine.",
        low=1,
        high=256,
        when_unconfigured=True,
    ),
    Parameter(
        name="cache_dir",
        default="",
        description="Folder for compiled models, so that the next start is quicker; empty: none.",
        when_unconfigured=True,
    ),
    Parameter(
        name="allow_untrained",
        default=False,
        description="Accept a bundle whose weights were never trained (for tests).",
        when_unconfigured=True,
    ),
    Parameter(
        name="cameras",
        default=("image",),
        description="Image topics, one per camera; with more than one each has its own ~/NAME/… topics.",
        when_unconfigured=True,
    ),
    Parameter(
        name="cpu_affinity",
        default=(-1,),
        description="Cores of the inference thread, the other threads keep to the rest; -1: any.",
        low=-1,
        high=1023,
        when_unconfigured=True,
    ),
    Parameter(
        name="fifo_priority",
        default=0,
        description="Priority of the inference thread under SCHED_FIFO; 0: the usual scheduling.",
        low=0,
        high=99,
        when_unconfigured=True,
    ),
    Parameter(
        name="lock_memory",
        default=False,
        description="Keep the memory of the process from being paged out.",
        when_unconfigured=True,
    ),
    Parameter(
        name="deadline_ms",
        default=33.0,
        description="Budget from an image's arrival to its result [ms]; later ones are counted and reported.",
        low=0.1,
        high=60000.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="max_miss_run",
        default=10,
        description="Consecutive results over the budget after which diagnostics say ERROR.",
        low=1,
        high=100000,
    ),
    Parameter(
        name="stale_after_s",
        default=1.0,
        description="Without an image for this long diagnostics say STALE, without a result ERROR [s].",
        low=0.05,
        high=3600.0,
    ),
    Parameter(
        name="candidates_timeout_s",
        default=1.0,
        description="Candidates older than this are no longer followed, a fan of constant actions is [s].",
        low=0.05,
        high=3600.0,
    ),
    Parameter(
        name="futures_dtype",
        default="float16",
        description="Type of the latents in ~/futures.",
        choices=("float16", "float32"),
    ),
    Parameter(
        name="autostart",
        default=True,
        description="Configure and activate at start; if that fails the node exits with an error.",
        read_only=True,
    ),
    REPORT_PATH,
)
