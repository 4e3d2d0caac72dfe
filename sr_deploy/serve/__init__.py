"""Pictures and videos upscaled over HTTP."""
