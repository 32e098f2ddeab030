"""All checks of the doctor, in their documented order."""

from jepa_runtime.doctor.checks import access, jetson, libraries, network, npu, session, speed, storage

CHECKS = (
    *jetson.CHECKS,
    *npu.CHECKS,
    *access.CHECKS,
    *libraries.CHECKS,
    *speed.CHECKS,
    *network.CHECKS,
    *session.CHECKS,
    *storage.CHECKS,
)
