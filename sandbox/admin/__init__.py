"""The Anthropic Admin API of the sandbox."""
