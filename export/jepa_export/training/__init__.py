"""Training: stages that can be stopped, resumed with identical losses, and monitored."""
