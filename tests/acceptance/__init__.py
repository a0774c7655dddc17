"""Client packages that nobody here wrote, unchanged, against a real server."""
