"""Images: files, folders, archives, and how they become columns of pixels."""
