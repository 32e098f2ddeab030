"""Training, conversion and packing of jepa-edge models; needs torch. The robot does without."""

# It keeps OpenVINO and ONNX Runtime, which others here import before it, from reporting what they run.
import jepa_runtime as jepa_runtime
