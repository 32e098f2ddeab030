"""Where frames come from: cameras, video files, image folders, recorded bags, simulated worlds."""
