"""Small models that run on robots: encoders, predictors and energies in torch."""
