"""The one scene format: cameras, photographs, masks, split and region of interest; how it is made, saved and read."""
