"""What a bundle is worth: what precision costs, what the model foresees, and the work that it takes."""
