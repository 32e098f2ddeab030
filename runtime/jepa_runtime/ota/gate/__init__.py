"""Whether a candidate may serve.

1. :mod:`static` reads what it says about itself; 2. :mod:`probe` tries it in a process that may crash;
3. :mod:`shadow` lets it predict beside what serves now, and what then happens judges both
(:mod:`sequential`).
"""
