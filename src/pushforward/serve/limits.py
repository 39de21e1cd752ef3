"""Bounds of what may be asked for. All are checked before work starts, and the page shows them."""

from __future__ import annotations

# Bytes of a JSON body or message: a picture, a mask and a hint of 512 x 512 pixels fit.
BODY = 4 << 20
# Seconds in which a body must have come, and in which a connection must have sent the head of its first request.
PATIENCE = 10.0
# Seconds that a client may take for one message before it is let go.
SEND = 20.0
# Seconds of one job, and what the worker has to stop in once it is asked to.
WORK, STOP = 900.0, 10.0
# Jobs that wait, clients at once, messages of one client in a second.
QUEUE, CLIENTS, RATE = 24, 256, 40
# Bytes of frames that wait for one client; older ones are dropped then.
OUTBOX = 16 << 20

POINTS = 4000
PICTURES = 64
# Values of all pictures of a job together.
VALUES = 4_000_000
# Values of one picture that the page uploads.
UPLOAD = 512 * 512 * 3
CALLS = 200
COMPONENTS = 12
TEXT = 400
