"""Pictures: files, folders, archives, decoding."""
