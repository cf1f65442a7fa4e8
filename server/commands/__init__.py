"""One module a command family of the gateway; each has `register(commands)`."""
