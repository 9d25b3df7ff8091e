"""Checkpoints in Hugging Face's layout: the folders that other programs write and read, and the names by which they call what is ours."""
