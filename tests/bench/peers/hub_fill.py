"""Fill JupyterHub's database through its own models, by its own Python: `hub_fill.py URL USERS`."""

import sys

from jupyterhub import orm


def fill(url, users):
    """Add the administrator and so many users; the hub gives them their default role when it starts."""
    session = orm.new_session_factory(url)()
    session.add(orm.User(name="benchadmin", admin=True))
    session.add_all(orm.User(name=f"user{n:05}") for n in range(users))
    session.commit()
    session.close()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))
