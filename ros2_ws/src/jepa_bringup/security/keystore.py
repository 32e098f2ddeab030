"""Create keys, certificates and signed permissions for all nodes of a robot from the policies in this folder.

The enclave of a node is its fully qualified name. Run it again after changing a policy: keys are retained,
and permissions are signed again. See docs/security.md.
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
  Copy everything except private/, which signs the permissions, to the robot:
    rsync -a --exclude private {keystore}/ robot:/etc/jepa/keystore/
    ros2 launch jepa_bringup world_model.launch.py keystore:=/etc/jepa/keystore …
  To change the keys or revoke a lost one, create a new keystore, copy it and restart all nodes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every enclave exists, 1 after an error."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("keystore", type=Path, help="folder of the keystore, created if missing")
    parser.add_argument(
        "--namespace", default="", help="namespace argument of the launch files (default: none)"
    )
    parser.add_argument(
        "--image-topic",
        default=IMAGE_TOPIC,
        help="image_topic argument of the launch files (default: %(default)s)",
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
    """Create the keystore if missing, and all enclaves with their permissions; return their number.

    Raises:
        ImportError: sros2 is not installed.
        OSError: The folder cannot be written.
        ValueError: The namespace is invalid.
    """
    try:
        from sros2 import errors, keystore
    except ImportError as error:
        raise ImportError(f"{error}: install sros2 (apt install ros-$ROS_DISTRO-sros2)") from error
    # sros2 does not restrict the permissions of private keys.
    before = os.umask(0o077)
    paths = sorted(POLICIES.glob("*.policy.xml"))
    try:
        if not keystore.is_valid_keystore(folder):
            keystore.create_keystore(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for path in paths:
                policy = load_policy(path, namespace, image_topic)
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


def load_policy(path: Path, namespace: str = "", image_topic: str = IMAGE_TOPIC) -> ElementTree.Element:
    """Return the policy in ``path`` for nodes launched with these arguments."""
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
