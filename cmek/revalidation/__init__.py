"""Revalidation of all onboarded keys: request, table of all keys, signals, drill."""
