"""INT8 quantization: accuracy control after training, and quantization-aware training."""
