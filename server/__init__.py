"""The gateway: an OpenAI-compatible API that keeps nothing, in front of a supervised engine."""
