"""What is true about one key: snapshot, rules, prerequisites, diagnosis, health."""
