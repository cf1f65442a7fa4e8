"""One module a command family; each has `register(commands)` that adds its parsers."""
