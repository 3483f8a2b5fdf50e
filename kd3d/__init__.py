"""kd3d: compress 3D object detectors until they fit the vehicle, with proof."""

__version__ = "0.1.0"
