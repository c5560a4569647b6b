"""From a signed distance, or rendered depth, to a clean triangle mesh in the world frame."""
