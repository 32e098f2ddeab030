"""The real-time loop: newest frame in, latent state and predicted futures out."""
