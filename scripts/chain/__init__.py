"""From a clone to a verified chat: what `scripts/up` does, in steps."""
