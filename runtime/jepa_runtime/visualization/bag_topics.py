"""Which topics of a bag are those of one world model: found by their types, in any namespace."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.sources.bag_file import BagFile

PLANNER_STATUS = "jepa_msgs/msg/PlannerStatus"
EPISODE_RESULT = "jepa_msgs/msg/EpisodeResult"


@dataclass(frozen=True)
class Topics:
    """The names; None where the bag does not have them.

    ``prefix`` is what the names of the world model's results begin with, such as ``/world_model``, and
    ``namespace`` what all names of its robot begin with, such as nothing.
    """

    prefix: str
    namespace: str
    image: str
    latent: str
    info: str
    futures: str | None
    surprise: str | None
    goal: str | None
    command: str | None
    planner: str | None
    episodes: str | None


def find_topics(bag: BagFile, *, node: str | None = None, image: str | None = None) -> Topics:
    """Find them.

    Args:
        node: the name of the world model (with a camera's prefix, if it has several); may be left out where
            the bag has results of one only.
        image: the topic of the camera; may be left out where there is only one.

    Raises:
        SourceError: something needed is not there, or there are several to choose from (they are listed).
    """
    prefixes = [_parent(topic) for topic in bag.topics(messages.LATENT_STATE)]
    if not prefixes:
        raise SourceError(
            f"{bag.path}: world model: nothing was recorded of one; `jepa-runtime record --source BAG …` "
            f"plays images and commands through a model and records all; its topics: {bag.listed()}"
        )
    prefix = _one(bag, prefixes, node, "world model", "--node")
    infos = [
        topic for topic in bag.topics(messages.MODEL_INFO) if f"{prefix}/".startswith(f"{_parent(topic)}/")
    ]
    if not infos:
        raise SourceError(
            f"{bag.path}: no model_info of {prefix} was recorded, which says what its numbers mean: record "
            "that topic too (it is latched)"
        )
    namespace = _parent(_parent(infos[0]))

    def of_robot(type_name: str) -> str | None:
        return _first(bag.topics(type_name), namespace)

    # Of several, the one that the nodes take by default for what is executed.
    twists = bag.topics(messages.TWIST, messages.TWIST_STAMPED)
    commands = sorted(twists, key=lambda topic: topic != f"{namespace}/cmd_vel")
    goals = [topic for topic in bag.topics(messages.IMAGE) if topic.endswith("goal_image")]
    pictures = (f"{prefix}/", f"{namespace}/pictures/")
    cameras = [
        topic
        for topic in bag.topics(messages.IMAGE, messages.COMPRESSED_IMAGE)
        if topic not in goals and not topic.startswith(pictures)
    ]
    return Topics(
        prefix=prefix,
        namespace=namespace,
        image=_one(bag, cameras, image, "camera", "--image"),
        latent=f"{prefix}/latent",
        info=infos[0],
        futures=_first(bag.topics(messages.PREDICTED_FUTURES), prefix),
        surprise=_first(bag.topics(messages.SURPRISE), prefix),
        goal=_first(goals, namespace),
        command=_first(commands, namespace),
        planner=of_robot(PLANNER_STATUS),
        episodes=of_robot(EPISODE_RESULT),
    )


def _parent(topic: str) -> str:
    return topic.rpartition("/")[0]


def _first(topics: list[str], prefix: str) -> str | None:
    return next((topic for topic in topics if topic.startswith(f"{prefix}/")), None)


def _one(bag: BagFile, found: list[str], asked: str | None, what: str, option: str) -> str:
    chosen = found if asked is None else [topic for topic in found if topic == f"/{asked.strip('/')}"]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(found)
    if asked is not None:
        raise SourceError(f"{bag.path}: there is no {what} {asked}; found: {listed or 'none'}")
    if found:
        raise SourceError(f"{bag.path}: {what}: several, choose one with {option}: {listed}")
    raise SourceError(f"{bag.path}: {what}: nothing was recorded of one")
