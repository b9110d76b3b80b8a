"""A server of forks that outlives who asks it: one killed between its call and its question ends Python's own.

Drivers that tests kill share the server of the tests; preloading this module mends that server.
"""

import errno
from multiprocessing import reduction

received = reduction.recvfds


def recvfds(*arguments):
    try:
        return received(*arguments)
    except EOFError:
        raise OSError(errno.ECONNABORTED, "who asked is gone") from None  # for which the server waits for the next


reduction.recvfds = recvfds
