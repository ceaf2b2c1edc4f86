"""Starts notebook servers: runs as root in the lab environment (config.Paths.lab_environment), warm, told by the agent.

    agent --request, descriptor--> launcher --fork--> shim (root, in the slice) --fork--> server (the user)

The launcher has imported JupyterLab once (prepare.py); a server is a fork of it that gives up everything of root's
(privileges.py) and so answers in a tenth of the time, and costs a quarter of the memory, of one that is executed. What
forks share with each other: the layout of their memory and Python's hash seed, which an executed program would have for
itself. Nothing of a request's is read before the fork (listening.py).
"""
