"""Evaluation of a bundle: the cost of each precision, prediction accuracy, and compute cost."""
