"""Video files -> upscaled video files. The only package that imports `av`, and only inside functions or its own modules."""
