"""Updates that an Eclipse hawkBit server orders, over its Direct Device Integration API (DDI v1).

hawkBit says which robot is to have which version, and when. What a robot may have at all, its signed
repository says, and from there alone come the bytes: a deployment that names what the repository does not
offer is answered with a failure.
"""
