"""Over-the-air updates of the model: from a signed repository, over slots and a gate, to the running node.

============  ===========================================================================================
trust         which files are authentic and current (The Update Framework)
fetch         bytes from a server or a folder, with limits
release       what a release says about itself, and whether it is for this robot
deltas        a file from the one before it
durable       files that are there whole or not at all, also after a power cut
store         the folders of a robot: staging, slots, which slot serves, which one is known to be good
state         what must survive a restart: the update in work, floors, refusals
audit         what happened, each entry bound to the one before it
gate          whether a candidate may serve
machine       the states of an update, and what follows what
client        all of it together
============  ===========================================================================================
"""
