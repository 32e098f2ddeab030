"""First-person rooms in MuJoCo: the houses of the ray caster, with other physics and other images.

A model that was trained on the ray caster (:mod:`jepa_sim.worlds.first_person`) is scored here without
having seen it. Shared are the plans of the houses (where walls, doors and furniture are), the missions of the
levels, the controllers that know true poses, the limits of the robot, the pose and field of view of its
camera, and the noise of the sensor. Not shared are motion, contact, wheels and their odometry, the geometry
that is drawn, textures, colors, light, and the renderer.

It needs numba (the extra ``first-person``) and MuJoCo (the extra ``worlds``).
"""
