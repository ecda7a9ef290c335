"""Where crystals and models come from: files, folders, the Materials Project, checkpoints."""
