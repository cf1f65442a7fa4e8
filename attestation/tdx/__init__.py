"""Intel TDX: quotes and event logs in, verified claims out."""
