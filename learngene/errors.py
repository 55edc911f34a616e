"""The one exception that users see: a sentence with the value, the limit and the way out."""


class LearngeneError(ValueError):
    """Bad input. Raised before expensive work starts; the CLI prints it and exits with status 2."""
