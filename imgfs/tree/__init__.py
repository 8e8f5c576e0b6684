"""What a path and an inode number mean."""
