"""What lies where in LAB_HOME. Standard library only."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """The parts of one LAB_HOME, in the order of the folder listing; `home` is absolute."""

    home: Path

    @property
    def data(self) -> Path:
        """Prepared data, one folder `NAME/FINGERPRINT` each."""
        return self.home / "data"

    @property
    def downloads(self) -> Path:
        """Source files as they came, verified."""
        return self.home / "downloads"

    @property
    def runs(self) -> Path:
        """One folder a training run."""
        return self.home / "runs"

    @property
    def prefect_home(self) -> Path:
        """Prefect's own folder, its database included."""
        return self.home / "prefect"

    @property
    def prefect_database(self) -> Path:
        """The Prefect server's SQLite file."""
        return self.prefect_home / "prefect.db"

    @property
    def mlflow_database(self) -> Path:
        """The MLflow server's SQLite file."""
        return self.home / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts; clients on this machine write here directly."""
        return self.home / "artifacts"

    @property
    def lab_database(self) -> Path:
        """The lab's own catalogue."""
        return self.home / "lab.db"

    @property
    def optuna_database(self) -> Path:
        """Optuna's studies."""
        return self.home / "optuna.db"

    @property
    def sweeps(self) -> Path:
        """One folder a sweep, with the runs of its trials in it."""
        return self.home / "sweeps"

    @property
    def logs(self) -> Path:
        """One log file a server, rotated."""
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """What only matters while the servers run: lock and ports."""
        return self.home / "run"

    @property
    def running_file(self) -> Path:
        """The ports that the servers were started with, so that other terminals find them without being told."""
        return self.run / "servers.json"

    @property
    def lock_file(self) -> Path:
        """Held (flock) while the servers are being started or stopped; the kernel frees it when its holder dies."""
        return self.run / "lock"
