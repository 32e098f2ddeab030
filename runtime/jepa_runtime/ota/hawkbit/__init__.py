"""Updates that an Eclipse hawkBit server orders, over its Direct Device Integration API (DDI v1).

hawkBit decides which robot installs which version, and when. The signed repository decides what a robot may
install at all, and every file comes from there: a deployment of a version that the repository does not offer
is answered with a failure.
"""
