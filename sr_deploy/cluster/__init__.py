"""Files, folders and videos, upscaled by the machines of a Ray cluster."""

from sr_deploy.cluster.run import RayOptions, upscale_on_ray

__all__ = ["RayOptions", "upscale_on_ray"]
