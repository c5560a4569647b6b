"""From field values along rays to pixels."""
