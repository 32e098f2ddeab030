"""First-person rooms: a wheeled robot with a forward camera in houses of textured rooms.

The modules with compiled code need numba, the extra ``first-person``.
"""
