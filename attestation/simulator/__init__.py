"""Software TDX for development and tests: own root, never a default, labelled simulated."""
