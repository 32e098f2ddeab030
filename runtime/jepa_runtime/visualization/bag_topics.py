"""Find the topics of one world model in a bag by their types, in any namespace."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.sources.bag_file import BagFile

PLANNER_STATUS = "jepa_msgs/msg/PlannerStatus"
EPISODE_RESULT = "jepa_msgs/msg/EpisodeResult"


@dataclass(frozen=True)
class Topics:
    """The names of the topics, or None for those that the bag lacks.

    Attributes:
        prefix: Prefix of the world model's results, such as ``/world_model``.
        namespace: Prefix of all topics of the robot; may be empty.
        image: Camera images.
        latent: Latent states.
        info: Model information.
        futures: Predicted futures.
        surprise: Surprise values.
        goal: Goal images.
        command: Velocity commands.
        planner: Planner status.
        episodes: Episode results.
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
    """Find the topics of a world model.

    Args:
        bag: The bag.
        node: The name of the world model, with the prefix of the camera if it has several; optional if the
            bag has the results of only one.
        image: The topic of the camera; optional if there is only one.

    Raises:
        SourceError: A required topic is missing, or there are several, which the message lists.
    """
    prefixes = [_parent(topic) for topic in bag.topics(messages.LATENT_STATE)]
    if not prefixes:
        raise SourceError(
            f"{bag.path} has no topics of a world model: run a model on its images and commands with "
            f"`jepa-runtime record --source BAG …`; the bag has: {bag.describe_topics()}",
            code="source.topic_not_found",
        )
    prefix = _one(bag, prefixes, node, "world model", "--node")
    infos = [
        topic for topic in bag.topics(messages.MODEL_INFO) if f"{prefix}/".startswith(f"{_parent(topic)}/")
    ]
    if not infos:
        raise SourceError(
            f"{bag.path} has no model_info for {prefix}, which is needed to interpret its values: record "
            "that topic, too (it is latched)",
            code="source.topic_not_found",
        )
    namespace = _parent(_parent(infos[0]))

    def of_robot(type_name: str) -> str | None:
        return _first(bag.topics(type_name), namespace)

    # Prefer the topic that the nodes use by default for executed commands.
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


def _one(bag: BagFile, found: list[str], requested: str | None, what: str, option: str) -> str:
    chosen = found if requested is None else [topic for topic in found if topic == f"/{requested.strip('/')}"]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(found)
    if requested is not None:
        raise SourceError(
            f"{bag.path} has no {what} {requested}; found: {listed or 'none'}", code="source.topic_not_found"
        )
    if found:
        raise SourceError(
            f"{bag.path} has several topics of a {what}: choose one with {option}: {listed}",
            code="source.topic_ambiguous",
        )
    raise SourceError(
        f"{bag.path} has no topics of a {what}: record them, too", code="source.topic_not_found"
    )
