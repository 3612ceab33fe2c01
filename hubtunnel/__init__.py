"""hubtunnel: SMTP between mail hubs that know each other, through one authenticated tunnel."""

__version__ = "0.1.0"
