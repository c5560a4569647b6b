"""Where the field is evaluated: pixels to rays, occupancy grid, samples along rays."""
