"""What can be known of a scene before any GPU time is spent: poses, coverage, masks, photographs, costs, and what to change."""
