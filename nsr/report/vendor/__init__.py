"""Libraries of other people that the page carries, minified and unchanged; `README.md` says which and how they were built."""
