"""Access: who may use the service, with which scopes, and how much."""
