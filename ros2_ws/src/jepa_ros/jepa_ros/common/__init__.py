"""Building blocks shared by several nodes: parameters, QoS, conversions, process life cycle."""
