"""Training, conversion, packaging and release of jepa-edge models, on a workstation with torch."""

# Imported first: it keeps OpenVINO and ONNX Runtime, which modules below import, from sending telemetry.
import jepa_runtime as jepa_runtime
