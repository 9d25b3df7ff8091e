"""What a run leaves behind: its journal, its way to MLflow, the registry, and the lab's own tables."""
