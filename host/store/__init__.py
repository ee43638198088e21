"""Files that the host keeps: the audit log."""
