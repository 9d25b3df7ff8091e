"""The architectures of the lecture, one file each."""
