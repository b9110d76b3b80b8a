"""The one exception that means: the input is wrong, and this is the way out."""


class BadInput(Exception):
    """Wrong input from the user: one line that names the file, key or domain and the way out.

    The command line prints the line without a traceback and exits with code 2; a run that had already
    started is marked FAILED with the line as its reason.
    """


class OutOfMemory(BadInput):
    """The run did not fit the memory of the machine or of the GPU; the line says what to lower."""
