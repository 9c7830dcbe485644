"""Prerequisites: what must hold before anything is made, read all at once and judged purely."""
