"""What `cmek doctor` checks."""
