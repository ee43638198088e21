"""What things are and what is allowed: pure modules that take and return values."""
