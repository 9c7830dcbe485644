"""Client for the Anthropic Admin API: models, errors, credentials, transport."""
