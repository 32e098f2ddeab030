"""Conversion to what engines read: ONNX, OpenVINO IR, networks of TensorRT, NPU blobs, CUDA kernels."""
