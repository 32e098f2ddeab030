"""Pictures of what a model thinks: remembered frames, a map of futures, reports, topics for viewers."""
