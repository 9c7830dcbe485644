"""Revalidation of all onboarded keys: request, fleet table."""
