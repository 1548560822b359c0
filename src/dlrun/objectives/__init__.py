"""What is minimized: a problem is its losses, in the order in which they are taken."""
