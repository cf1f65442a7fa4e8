"""The inference engine: a supervised child process on a Unix socket."""
