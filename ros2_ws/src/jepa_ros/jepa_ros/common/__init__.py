"""Building blocks that several nodes share: parameters, QoS profiles, conversions, process life cycle."""
