"""Publish models in a repository of signed releases (The Update Framework), served by any web server.

=================  ======================================================================================
keys               private keys in files, in a key service or in a hardware module
repository         the signed metadata on disk: read, verified, changed in one step
roles              which keys sign which role, and for how long; new keys and channels
versions           the versions of a model in a channel, and their files
publish            releases: publish, roll out, downgrade, revoke
prune              removal of the files of old versions
delta_maker        a file as a difference from an earlier one
repository_check   verification of all metadata and files
repository_tables  roles and releases as tables
=================  ======================================================================================
"""
