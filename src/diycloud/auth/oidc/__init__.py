"""The OpenID Connect provider: applications that sign people in through the platform.

Standards: OpenID Connect Core 1.0, Discovery 1.0 and RP-Initiated Logout 1.0; RFC 6749, 6750, 7636, 7009, 7662, 9207;
RFC 9700 where they leave a choice. What is said over HTTP is in web/oidc.py and web/oidc_pages.py.

    clients.py   the applications: their table, their secrets, where they may send people back to
    requests.py  what an application asks of the authorization endpoint
    grants.py    codes and tokens: what a sign-in at an application was given
    keys.py      what signs ID tokens
    claims.py    what is told of a person
"""
