"""Training: stages that can be stopped, resumed to identical losses, and watched."""
