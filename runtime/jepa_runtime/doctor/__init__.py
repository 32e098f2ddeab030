"""Diagnose whether a computer can run a model in real time.

Each finding has its evidence and the commands that fix it. Nothing here changes the machine.

Example::

    from pathlib import Path
    from jepa_runtime.doctor import LiveFacts, Requirements, System, examine

    requirements = Requirements.from_bundle(Path("models/two_rooms"))
    for finding in examine(System(Path("/"), LiveFacts()), requirements).findings:
        print(finding.check, finding.verdict)
"""

from jepa_runtime.doctor.diagnosis_output import as_json, fix_script
from jepa_runtime.doctor.examination import Diagnosis, examine
from jepa_runtime.doctor.finding import Evidence, Finding, Severity
from jepa_runtime.doctor.live_facts import LiveFacts
from jepa_runtime.doctor.machine import Machine
from jepa_runtime.doctor.recorded_root import RecordedFacts
from jepa_runtime.doctor.requirements import Requirements
from jepa_runtime.doctor.system import System

__all__ = [
    "Diagnosis",
    "Evidence",
    "Finding",
    "LiveFacts",
    "Machine",
    "RecordedFacts",
    "Requirements",
    "Severity",
    "System",
    "as_json",
    "examine",
    "fix_script",
]
