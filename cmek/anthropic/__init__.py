"""Client of the Anthropic Admin API: models, errors, credentials, transport."""
