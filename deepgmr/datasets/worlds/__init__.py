"""Procedural shapes, scenes and sensors."""
