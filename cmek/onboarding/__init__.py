"""One onboarding: request, eligibility, plan, approval, gate, reports."""
