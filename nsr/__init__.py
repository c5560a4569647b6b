"""nsr: photos of an object in, a measured, world-scale mesh and a benchmark report out."""

__version__ = "0.1.0"
