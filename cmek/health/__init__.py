"""Is an onboarded key still good: verdicts by pure rules, and what follows from them."""
