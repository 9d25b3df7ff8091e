"""The only code that knows Prefect, Hydra, MLflow, Optuna, SQLAlchemy and the terminal."""
