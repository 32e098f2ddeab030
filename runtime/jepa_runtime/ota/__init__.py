"""Over-the-air updates of the model: from a signed repository, over slots and a gate, to the running node.

============  ===========================================================================================
trust         which files are authentic and current (The Update Framework)
fetch         bytes within limits: from a web server (http_source) or a folder (sources), into a file (part)
connections   to web servers
release       what a release says about itself, and whether it is for this robot
deltas        a file from the one before it
download      all files of a release: from slots, by deltas, from the repository
durable       files that are there whole or not at all, also after a power cut
store         the folders of a robot: staging, slots, which slot serves, which one is known to be good
state         what must survive a restart: the update in work, floors, refusals
audit         what happened, each entry bound to the one before it
gate          whether a candidate may serve
serving       what an update needs of the serving process
local_serving serves on this machine without ROS
conduct       whether what serves serves well
machine       the states of an update, and what follows what
steps         what is done in each state
client        carries updates to their end
config        how a robot is set up
provision     sets one up, and makes its state again
robot         all of it together, on the disk of one robot
daemon        looks for updates again and again
operator      what a person or a service may ask of a robot at any time
hawkbit       updates that a hawkBit server orders
conformance   the client that the suite of The Update Framework tests
============  ===========================================================================================
"""
