"""Keys, certificates and signed permissions for all nodes of one robot, from the policies beside this file.

The enclave of a node is its full name. Run it again after a policy was changed: keys stay, permissions are
signed anew. See docs/security.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementInclude, ElementTree

POLICIES = Path(__file__).resolve().parent / "policies"
IMAGE_TOPIC = "camera/image_raw"

_NEXT = """
{keystore}: {count} enclaves on domain {domain}
  The robot gets everything but private/, which signs what is believed there:
    rsync -a --exclude private {keystore}/ robot:/etc/jepa/keystore/
    ros2 launch jepa_bringup world_model.launch.py keystore:=/etc/jepa/keystore …
  To change the keys, or shut out one that was lost, make a new keystore, copy it, start all nodes again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 if every enclave is there, 1 after an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("keystore", type=Path, help="folder, made if there is none")
    parser.add_argument("--namespace", default="", help="of the launch files (default: none)")
    parser.add_argument(
        "--image-topic", default=IMAGE_TOPIC, help="of the launch files (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        count = create(options.keystore, options.namespace, options.image_topic)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    print(_NEXT.format(keystore=options.keystore, count=count, domain=domain))
    return 0


def create(folder: Path, namespace: str = "", image_topic: str = IMAGE_TOPIC) -> int:
    """Make the keystore if there is none, and every enclave with its permissions; how many there are.

    Raises:
        ImportError: sros2 is not installed.
        OSError: the folder cannot be written.
        ValueError: the namespace is not valid.
    """
    try:
        from sros2 import errors, keystore
    except ImportError as error:
        raise ImportError(f"{error}: install sros2 (apt install ros-$ROS_DISTRO-sros2)") from error
    # sros2 leaves to the umask who may read a private key.
    before = os.umask(0o077)
    paths = sorted(POLICIES.glob("*.policy.xml"))
    try:
        if not keystore.is_valid_keystore(folder):
            keystore.create_keystore(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for path in paths:
                policy = policy_of(path, namespace, image_topic)
                enclave = policy.find("enclaves/enclave").attrib["path"]
                placed = Path(scratch) / path.name
                ElementTree.ElementTree(policy).write(placed, encoding="utf-8")
                keystore.create_enclave(folder, enclave)
                keystore.create_permission(folder, enclave, placed)
    except errors.SROS2Error as error:
        raise ValueError(f"{folder}: {error}") from error
    finally:
        os.umask(before)
    return len(paths)


def policy_of(path: Path, namespace: str = "", image_topic: str = IMAGE_TOPIC) -> ElementTree.Element:
    """The policy in ``path`` for nodes that are launched with these arguments."""
    policy = ElementTree.parse(path).getroot()
    ElementInclude.include(policy, base_url=str(path))
    prefix = f"/{namespace.strip('/')}".rstrip("/")
    for enclave in policy.iter("enclave"):
        enclave.set("path", prefix + enclave.attrib["path"])
    for profile in policy.iter("profile"):
        profile.set("ns", prefix or "/")
    for topic in policy.iter("topic"):
        topic.text = (topic.text or "").replace(IMAGE_TOPIC, image_topic)
    return policy


if __name__ == "__main__":
    sys.exit(main())
