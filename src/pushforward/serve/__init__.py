"""A page in the browser on laws and models: flows in the plane and pictures, drawn as they are solved.

Two processes. This one is the web server: it imports no torch, checks every request before any work starts, and keeps
the queue. The other one, `worker`, computes one job at a time and sends frames through a pipe.

    settings -> what may be asked for, with bounds           desk  -> queue, and the worker's process
    guard    -> Host, Origin, token, headers                 app   -> routes and the websocket
    outbox   -> frames that wait for a client                start -> the server by uvicorn
    worker   -> subjects, plane, pictures, curve, files      frames -> the binary form of what is drawn
"""
