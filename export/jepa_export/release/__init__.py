"""Publishing models: a repository of signed releases (The Update Framework), a folder for any web server.

==========  ==================================================================================
keys        who may sign: private keys in files, in a key service or in a hardware module
repository  the signed metadata as it lies on the disk: read, checked, changed in one step
roles       who signs what, for how long; new keys and new channels
publish     releases: new ones, how far they are rolled out, back to an old one, never again
deltas      a file as a difference from the one before it
check       whether everything that robots may ask for is there and as it was signed
==========  ==================================================================================
"""
