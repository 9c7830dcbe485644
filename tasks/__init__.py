"""One file a guide step: thin, retryable, idempotent Prefect tasks."""
