"""Training of one scene: data to the device, the loop, checkpoints, watchdogs, the final model file."""
