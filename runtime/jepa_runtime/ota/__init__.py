"""Over-the-air updates of the model: from a signed repository to the serving process.

:func:`open_client` opens everything on the disk of one robot. The other modules and packages are:

- ``client``: runs updates to their end
- ``state_machine``: the states of an update, and their transitions
- ``steps``: what is done in each state
- ``state``: the persistent state: the update in progress, floors, rejections
- ``config``: the configuration of a robot
- ``release``: what a release declares, and whether it fits this robot
- ``rollback``: whether the active model must be rolled back
- ``trust``: which files are authentic and current (The Update Framework)
- ``transport``: downloads within limits, from a web server or a folder, and deltas
- ``storage``: staging, slots, and the links to the active and the last known good model
- ``gate``: whether a candidate may serve
- ``health``: the health of the serving process, and the interface to it
- ``provisioning``: sets up a robot, and rebuilds its state
- ``daemon``: checks for updates periodically
- ``operator_requests``: what an operator or a service may request at any time
- ``operator_alarms``: conditions that need an operator
- ``audit_log``: the log, in which each entry is bound to the one before it
- ``hawkbit``: updates that a hawkBit server orders
- ``tuf_conformance``: the client for the conformance suite of The Update Framework
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota import config, daemon, operator_requests, robot, state
    from jepa_runtime.ota.client import Client
    from jepa_runtime.ota.config import Config
    from jepa_runtime.ota.operator_alarms import alarms
    from jepa_runtime.ota.provisioning import provision
    from jepa_runtime.ota.release import (
        MAX_POINTER_BYTES,
        POINTER_NAME,
        RUNTIME_ABI,
        SCHEMA_VERSION,
        Budgets,
        Release,
        manifest_fields,
        parse_release,
        pointer_path,
        release_path,
    )
    from jepa_runtime.ota.robot import UpdateCallbacks, UpdateComponents, UpdateOptions, open_client
    from jepa_runtime.ota.state import ChannelRelease, Installed, Phase, State
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["config", "daemon", "operator_requests", "robot", "state"],
            "client": ["Client"],
            "config": ["Config"],
            "operator_alarms": ["alarms"],
            "provisioning": ["provision"],
            "release": [
                "MAX_POINTER_BYTES",
                "POINTER_NAME",
                "RUNTIME_ABI",
                "SCHEMA_VERSION",
                "Budgets",
                "Release",
                "manifest_fields",
                "parse_release",
                "pointer_path",
                "release_path",
            ],
            "robot": ["UpdateCallbacks", "UpdateComponents", "UpdateOptions", "open_client"],
            "state": ["Installed", "Phase", "State", "ChannelRelease"],
        },
    )

__all__ = [
    "MAX_POINTER_BYTES",
    "POINTER_NAME",
    "RUNTIME_ABI",
    "SCHEMA_VERSION",
    "Budgets",
    "ChannelRelease",
    "Client",
    "Config",
    "Installed",
    "Phase",
    "Release",
    "State",
    "UpdateCallbacks",
    "UpdateComponents",
    "UpdateOptions",
    "alarms",
    "config",
    "daemon",
    "manifest_fields",
    "open_client",
    "operator_requests",
    "parse_release",
    "pointer_path",
    "provision",
    "release_path",
    "robot",
    "state",
]
