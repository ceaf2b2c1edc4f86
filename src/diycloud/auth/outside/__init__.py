"""Signing in through others: a directory (ldap.py) and OpenID Connect providers (openid.py).

Each proves who somebody is there and returns a Person; everything after that is the same for all of them: who this is here
(linking.py), which groups and role they have (mapping.py), and that it goes together (gateway.py).
"""
