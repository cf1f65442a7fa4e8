"""One file a step: never changed after a release, only followed by another."""
