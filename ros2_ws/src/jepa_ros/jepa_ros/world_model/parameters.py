"""The parameters of the world_model node."""

from __future__ import annotations

from jepa_ros.common.parameters import REPORT_PATH, STAMPED_CMD_VEL, Parameter
from jepa_runtime.backends import DEFAULT_ENGINE

PARAMETERS = (
    Parameter(
        name="bundle",
        default="",
        description="Folder of the model bundle, or its address on the Hugging Face Hub "
        "(hf://org/name@revision), which is downloaded when the node is configured.",
        when_unconfigured=True,
    ),
    Parameter(
        name="engine",
        default=DEFAULT_ENGINE,
        description="Engine and device that run the model. A comma-separated list gives alternatives, the "
        "preferred one first: openvino:NPU,openvino:CPU.",
        when_unconfigured=True,
    ),
    Parameter(
        name="precision",
        default="",
        description="Precision of the model variant. Empty: the first one in the bundle that the engine can "
        "run.",
        choices=("", "int8", "fp16", "bf16", "fp32"),
        when_unconfigured=True,
    ),
    Parameter(
        name="num_samples",
        default=0,
        description="Number of candidate action sequences predicted per image. 0: the bundle's default.",
        low=0,
        high=65536,
        when_unconfigured=True,
    ),
    Parameter(
        name="threads",
        default=1,
        description="Number of threads of the inference engine.",
        low=1,
        high=256,
        when_unconfigured=True,
    ),
    Parameter(
        name="cache_dir",
        default="",
        description="Folder of the cache of compiled models, for a faster start. Empty: no cache.",
        when_unconfigured=True,
    ),
    Parameter(
        name="allow_untrained",
        default=False,
        description="Whether to accept a bundle with untrained weights (for tests).",
        when_unconfigured=True,
    ),
    Parameter(
        name="cameras",
        default=("image",),
        description="Image topics, one per camera. With several cameras the result topics are ~/NAME/….",
        when_unconfigured=True,
    ),
    Parameter(
        name="cpu_affinity",
        default=(-1,),
        description="CPU cores of the inference thread; other threads use the remaining cores. -1: any core.",
        low=-1,
        high=1023,
        when_unconfigured=True,
    ),
    Parameter(
        name="fifo_priority",
        default=0,
        description="SCHED_FIFO priority of the inference thread. 0: default scheduling.",
        low=0,
        high=99,
        when_unconfigured=True,
    ),
    Parameter(
        name="lock_memory",
        default=False,
        description="Whether to lock the memory of the process so that it is never paged out.",
        when_unconfigured=True,
    ),
    Parameter(
        name="deadline_ms",
        default=33.0,
        description="Latency budget from the arrival of an image to its result [ms]. Later results are "
        "counted and reported.",
        low=0.1,
        high=60000.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="max_miss_run",
        default=10,
        description="Number of consecutive late results after which the diagnostics report ERROR.",
        low=1,
        high=100000,
    ),
    Parameter(
        name="stale_after_s",
        default=1.0,
        description="Time without an image after which the diagnostics report STALE, or ERROR if images "
        "arrive but no results [s].",
        low=0.05,
        high=3600.0,
    ),
    Parameter(
        name="candidates_timeout_s",
        default=1.0,
        description="Maximum age of action candidates [s]. After it, a fan of constant actions is predicted "
        "instead.",
        low=0.05,
        high=3600.0,
    ),
    Parameter(
        name="error_probability",
        default=0.9,
        description="Target coverage of the error bounds in ~/futures [0, 1].",
        low=0.5,
        high=0.999,
        when_unconfigured=True,
    ),
    Parameter(
        name="false_alarm_every_s",
        default=600.0,
        description="Minimum mean time between false alarms on ~/events under normal conditions, for "
        "surprise and for change [s].",
        low=1.0,
        high=1e6,
        when_unconfigured=True,
    ),
    Parameter(
        name="actuation_delay_s",
        default=0.0,
        description="Time from a command on its topic to its effect on the robot [s]. Executed actions, "
        "and the start of futures whose latency is compensated, are shifted by it.",
        low=0.0,
        high=10.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="state_topic",
        default="",
        description="Topic of the measured state of the robot, if the model reads it. Empty: pose, or "
        "joint_states if the state is not a pose.",
        when_unconfigured=True,
    ),
    Parameter(
        name="gripper_topic",
        default="gripper_state",
        description="Topic of the gripper's JointState, if the model reads a pose and a gripper.",
        when_unconfigured=True,
    ),
    Parameter(
        name="gripper_joint",
        default="",
        description="Joint of the gripper on gripper_topic. Empty: its only joint.",
        when_unconfigured=True,
    ),
    Parameter(
        name="gripper_open",
        default=0.0,
        description="Position of that joint which the model reads as 0.",
        low=-1e3,
        high=1e3,
        when_unconfigured=True,
    ),
    Parameter(
        name="gripper_closed",
        default=1.0,
        description="Position of that joint which the model reads as 1.",
        low=-1e3,
        high=1e3,
        when_unconfigured=True,
    ),
    Parameter(
        name="black_box_dir",
        default="",
        description="Folder for recordings of images and commands around each surprise. Empty: no "
        "recordings.",
        when_unconfigured=True,
    ),
    Parameter(
        name="black_box_before_s",
        default=10.0,
        description="Recorded time before a surprise [s].",
        low=0.1,
        high=600.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="black_box_after_s",
        default=5.0,
        description="Recorded time after the beginning of a surprise [s].",
        low=0.1,
        high=600.0,
        when_unconfigured=True,
    ),
    Parameter(
        name="black_box_max_bytes",
        default=1 << 30,
        description="Maximum total size of the recordings [bytes]. The oldest ones are deleted.",
        low=1 << 20,
        high=1 << 50,
        when_unconfigured=True,
    ),
    Parameter(
        name="futures_dtype",
        default="float16",
        description="Data type of the latents in ~/futures.",
        choices=("float16", "float32"),
    ),
    Parameter(
        name="autostart",
        default=True,
        description="Whether to configure and activate at startup. If that fails, the node exits with an "
        "error.",
        read_only=True,
    ),
    STAMPED_CMD_VEL,
    REPORT_PATH,
)
