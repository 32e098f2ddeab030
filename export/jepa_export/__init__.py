"""Training, conversion and packing of jepa-edge models; needs torch. The robot does without."""

# It keeps OpenVINO, which others here import before it, from reporting each start.
import jepa_runtime as jepa_runtime
