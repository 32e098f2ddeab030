"""The commands of jepa-export: arguments and output over library functions."""
