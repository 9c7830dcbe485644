"""One key: what was read (snapshot), rules, prerequisites, diagnosis, health."""
