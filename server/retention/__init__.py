"""Look for what was sent in every place a service could have kept it."""
