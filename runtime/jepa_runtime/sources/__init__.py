"""Sources of frames: cameras, video files, image folders, recorded bags, simulated worlds."""
