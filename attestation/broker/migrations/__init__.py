"""The versions of the store's schema, oldest first; a broker moves its database to the newest."""
