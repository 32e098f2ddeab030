"""Conversion to what engines read: ONNX and OpenVINO IR."""
