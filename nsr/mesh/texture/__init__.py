"""From a mesh and photographs to a mesh with a texture: atlas, baking, files that viewers open, and a check against the photos."""
