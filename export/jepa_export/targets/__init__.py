"""Conversion to what engines read: ONNX, OpenVINO IR, networks for TensorRT, blobs for NPUs, kernels for CUDA."""
