"""Conversion for inference engines: ONNX, OpenVINO IR, TensorRT networks, NPU blobs, CUDA kernels."""
