"""A small user service the usual way: Flask, sqlite3, one connection a request, run by `gunicorn -w 2 flask_app:app`.

POST /api/auth/login {username, password} → {token}
GET  /api/users                → every user
GET  /api/users?page=3&per_page=50 → one page
GET  /api/users/NAME           → one user
POST /api/users {username, password, email, cpu_limit, mem_limit, disk_quota} → 201, the user

USERS_DB in the environment names the SQLite file (schema.sql). Passwords are salted SHA-256.
"""

import functools
import hashlib
import hmac
import os
import secrets
import sqlite3
import time

from flask import Flask, g, jsonify, request
from werkzeug.exceptions import HTTPException

TOKEN_SECONDS = 86_400
app = Flask(__name__)


def database():
    """Return this request's connection."""
    if "database" not in g:
        g.database = sqlite3.connect(os.environ["USERS_DB"], timeout=10)
        g.database.row_factory = sqlite3.Row
        g.database.execute("PRAGMA foreign_keys = ON")
    return g.database


@app.teardown_appcontext
def close_database(_error):
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()


@app.errorhandler(HTTPException)
def problem(error):
    return jsonify(error=error.description), error.code


def hash_password(password, salt=None):
    salt = salt or secrets.token_hex(8)
    return f"{salt}${hashlib.sha256((salt + password).encode()).hexdigest()}"


def password_holds(password, stored):
    return hmac.compare_digest(hash_password(password, stored.partition("$")[0]), stored)


def signed_in(view):
    """Let a request with a valid token through."""

    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        row = (
            database()
            .execute(
                "SELECT users.id, users.role FROM sessions JOIN users ON users.id = sessions.user_id"
                " WHERE token = ? AND expires_at > ? AND is_active = 1",
                (token, int(time.time())),
            )
            .fetchone()
        )
        if kind != "Bearer" or row is None:
            return jsonify(error="sign in first"), 401
        g.actor = row
        return view(*args, **kwargs)

    return wrapper


def administrator(view):
    @functools.wraps(view)
    def wrapper(*args, **kwargs):
        if g.actor["role"] != "admin":
            return jsonify(error="administrators only"), 403
        return view(*args, **kwargs)

    return signed_in(wrapper)


def with_allocation(user):
    """Return a user's row as a dictionary with the limits."""
    allocation = database().execute("SELECT * FROM resource_allocations WHERE user_id = ?", (user["id"],)).fetchone()
    return {
        "id": user["id"],
        "username": user["username"],
        "email": user["email"],
        "created_at": user["created_at"],
        "last_login": user["last_login"],
        "role": user["role"],
        "is_active": bool(user["is_active"]),
        "limits": allocation
        and {
            "cpu": allocation["cpu_limit"],
            "memory": allocation["mem_limit"],
            "disk": allocation["disk_quota"],
            "gpu": bool(allocation["gpu_access"]),
        },
    }


@app.post("/api/auth/login")
def login():
    body = request.get_json()
    user = (
        database()
        .execute("SELECT * FROM users WHERE username = ? AND is_active = 1", (body.get("username"),))
        .fetchone()
    )
    if user is None or not password_holds(str(body.get("password")), user["password_hash"]):
        return jsonify(error="wrong name or password"), 401
    token = secrets.token_urlsafe(32)
    with database() as connection:
        connection.execute(
            "INSERT INTO sessions (token, user_id, expires_at) VALUES (?, ?, ?)",
            (token, user["id"], int(time.time()) + TOKEN_SECONDS),
        )
        connection.execute("UPDATE users SET last_login = CURRENT_TIMESTAMP WHERE id = ?", (user["id"],))
    return jsonify(token=token)


@app.get("/api/users")
@administrator
def list_users():
    query, values = "SELECT * FROM users ORDER BY id", ()
    if "page" in request.args:
        per_page = min(request.args.get("per_page", 50, type=int), 200)
        page = max(request.args.get("page", 1, type=int), 1)
        query, values = f"{query} LIMIT ? OFFSET ?", (per_page, (page - 1) * per_page)
    return jsonify(users=[with_allocation(user) for user in database().execute(query, values)])


@app.get("/api/users/<username>")
@administrator
def show_user(username):
    user = database().execute("SELECT * FROM users WHERE username = ?", (username,)).fetchone()
    if user is None:
        return jsonify(error="no such user"), 404
    return jsonify(with_allocation(user))


@app.post("/api/users")
@administrator
def create_user():
    body = request.get_json()
    if not body.get("username") or not body.get("password"):
        return jsonify(error="username and password are needed"), 400
    try:
        with database() as connection:
            user_id = connection.execute(
                "INSERT INTO users (username, password_hash, email, role) VALUES (?, ?, ?, ?)",
                (body["username"], hash_password(body["password"]), body.get("email"), body.get("role", "user")),
            ).lastrowid
            connection.execute(
                "INSERT INTO resource_allocations (user_id, cpu_limit, mem_limit, disk_quota) VALUES (?, ?, ?, ?)",
                (user_id, body.get("cpu_limit", 1.0), body.get("mem_limit", "2048M"), body.get("disk_quota", "5120M")),
            )
    except sqlite3.IntegrityError:
        return jsonify(error="that name or address is taken"), 409
    user = database().execute("SELECT * FROM users WHERE id = ?", (user_id,)).fetchone()
    return jsonify(with_allocation(user)), 201
