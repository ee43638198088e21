"""What an application holds: the plugin host and its plugins."""
