-- made by python -m diycloud.core.reference; change the declarations, not this file

CREATE TABLE audit (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    actor TEXT NOT NULL,
    on_behalf_of TEXT DEFAULT '' NOT NULL,
    domain TEXT DEFAULT '' NOT NULL,
    via TEXT DEFAULT '' NOT NULL,
    address TEXT DEFAULT '' NOT NULL,
    request_id TEXT DEFAULT '' NOT NULL,
    action TEXT NOT NULL,
    target TEXT DEFAULT '' NOT NULL,
    outcome TEXT DEFAULT 'started' NOT NULL,
    code TEXT DEFAULT '' NOT NULL,
    message TEXT DEFAULT '' NOT NULL,
    duration_ms REAL,
    changes TEXT DEFAULT '{}' NOT NULL,
    token TEXT DEFAULT '' NOT NULL,
    CONSTRAINT ck_outcome CHECK (outcome IN ('started', 'done', 'refused', 'failed', 'crashed'))
);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_domain ON audit (domain, id);
CREATE INDEX audit_target ON audit (target, id);

CREATE TABLE idempotency_keys (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    actor TEXT NOT NULL,
    "key" TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER,
    answer TEXT DEFAULT '' NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (actor, "key")
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE notebook_evictions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL,
    asked_at REAL NOT NULL,
    gone INTEGER DEFAULT '0' NOT NULL,
    servers INTEGER DEFAULT '1' NOT NULL,
    tokens INTEGER DEFAULT '1' NOT NULL,
    kept_session INTEGER,
    last_session INTEGER DEFAULT '0' NOT NULL,
    UNIQUE (username)
);

CREATE TABLE oidc_clients (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    client_id TEXT NOT NULL,
    name TEXT NOT NULL,
    secret BLOB,
    redirect_uris TEXT DEFAULT '' NOT NULL,
    logout_uris TEXT DEFAULT '' NOT NULL,
    scopes TEXT DEFAULT 'openid profile email' NOT NULL,
    trusted INTEGER DEFAULT '0' NOT NULL,
    pkce INTEGER DEFAULT '1' NOT NULL,
    refresh INTEGER DEFAULT '0' NOT NULL,
    enabled INTEGER DEFAULT '1' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (client_id)
);

CREATE TABLE oidc_keys (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    kid TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    retired_at INTEGER,
    UNIQUE (kid)
);

CREATE TABLE policies (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    cpu REAL DEFAULT '1.0' NOT NULL,
    memory TEXT DEFAULT '2G' NOT NULL,
    disk TEXT DEFAULT '5G' NOT NULL,
    tasks INTEGER DEFAULT '512' NOT NULL,
    gpu INTEGER DEFAULT '0' NOT NULL,
    max_cpu REAL,
    max_memory TEXT,
    max_disk TEXT,
    max_tasks INTEGER,
    max_gpu INTEGER DEFAULT '1' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    second_factor INTEGER DEFAULT '0' NOT NULL,
    max_sessions INTEGER,
    UNIQUE (name)
);

CREATE TABLE domains (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    policy TEXT DEFAULT 'default' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (name),
    FOREIGN KEY(policy) REFERENCES policies (name)
);

CREATE TABLE groups (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    domain TEXT DEFAULT 'default' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    gid INTEGER,
    disk_quota TEXT,
    removing INTEGER DEFAULT '0' NOT NULL,
    host_problem TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (name),
    FOREIGN KEY(domain) REFERENCES domains (name)
);
CREATE INDEX groups_domain ON groups (domain, name);

CREATE TABLE users (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    email TEXT,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    last_login TEXT,
    role TEXT DEFAULT 'user' NOT NULL,
    is_active INTEGER DEFAULT '1' NOT NULL,
    uuid TEXT DEFAULT (lower(hex(randomblob(16)))) NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    full_name TEXT DEFAULT '' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    shell TEXT DEFAULT '/bin/bash' NOT NULL,
    portal_only INTEGER DEFAULT '0' NOT NULL,
    uid INTEGER,
    generation INTEGER DEFAULT '1' NOT NULL,
    host_generation INTEGER DEFAULT '0' NOT NULL,
    host_problem TEXT DEFAULT '' NOT NULL,
    shadow_hash TEXT,
    shadow_set INTEGER DEFAULT '0' NOT NULL,
    must_change_password INTEGER DEFAULT '0' NOT NULL,
    password_changed_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    last_login_ip TEXT,
    domain TEXT DEFAULT 'default' NOT NULL,
    policy TEXT DEFAULT 'default' NOT NULL,
    allowed_client_ip TEXT DEFAULT '' NOT NULL,
    external_id TEXT,
    sudo INTEGER DEFAULT '0' NOT NULL,
    container_uid INTEGER,
    container_gid INTEGER,
    container_gids TEXT DEFAULT '' NOT NULL,
    ssh_keys TEXT DEFAULT '' NOT NULL,
    password_void INTEGER DEFAULT '0' NOT NULL,
    CONSTRAINT ck_status CHECK (status IN ('pending', 'active', 'inactive', 'deleted', 'purging', 'purge-error')),
    CONSTRAINT ck_role CHECK (role IN ('admin', 'domain-admin', 'monitor', 'user')),
    UNIQUE (username),
    FOREIGN KEY(domain) REFERENCES domains (name),
    FOREIGN KEY(policy) REFERENCES policies (name),
    UNIQUE (external_id)
);
CREATE INDEX ix_users_policy ON users (policy);
CREATE INDEX users_domain ON users (domain, username);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX users_unsettled ON users (id) WHERE generation <> host_generation AND portal_only = 0;
CREATE UNIQUE INDEX users_uuid ON users (uuid);

CREATE TABLE activity (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    kind TEXT DEFAULT 'notebook' NOT NULL,
    server TEXT DEFAULT '' NOT NULL,
    profile TEXT DEFAULT '' NOT NULL,
    outcome TEXT NOT NULL,
    seconds REAL,
    by_whom TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    CONSTRAINT ck_outcome CHECK (outcome IN ('started', 'stopped', 'failed')),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX activity_user ON activity (user_id, id);

CREATE TABLE api_tokens (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    scopes TEXT DEFAULT '' NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used INTEGER,
    last_address TEXT DEFAULT '' NOT NULL,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    UNIQUE (key_id)
);
CREATE INDEX ix_api_tokens_user_id ON api_tokens (user_id);

CREATE TABLE group_members (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    group_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    added_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (group_id, user_id),
    FOREIGN KEY(group_id) REFERENCES groups (id) ON DELETE CASCADE,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_group_members_user_id ON group_members (user_id);

CREATE TABLE identities (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    linked_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    last_used TEXT,
    vouched INTEGER DEFAULT '0' NOT NULL,
    UNIQUE (provider, subject),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_identities_user_id ON identities (user_id);

CREATE TABLE notices (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    kind TEXT NOT NULL,
    by_whom TEXT DEFAULT '' NOT NULL,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_notices_user_id ON notices (user_id);

CREATE TABLE oidc_consents (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    client_id INTEGER NOT NULL,
    scopes TEXT DEFAULT '' NOT NULL,
    given_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (user_id, client_id),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    FOREIGN KEY(client_id) REFERENCES oidc_clients (id) ON DELETE CASCADE
);
CREATE INDEX ix_oidc_consents_client_id ON oidc_consents (client_id);
CREATE INDEX ix_oidc_consents_user_id ON oidc_consents (user_id);

CREATE TABLE old_passwords (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    password_hash TEXT NOT NULL,
    changed_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_old_passwords_user_id ON old_passwords (user_id);

CREATE TABLE passkeys (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    credential_id BLOB NOT NULL,
    public_key BLOB NOT NULL,
    sign_count INTEGER DEFAULT '0' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    transports TEXT DEFAULT '' NOT NULL,
    backed_up INTEGER DEFAULT '0' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    last_used TEXT,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    UNIQUE (credential_id)
);
CREATE INDEX ix_passkeys_user_id ON passkeys (user_id);

CREATE TABLE purges (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    history TEXT DEFAULT 'keep' NOT NULL,
    asked_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    UNIQUE (user_id),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE recovery_codes (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    code_hash BLOB NOT NULL,
    used_at TEXT,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_recovery_codes_user_id ON recovery_codes (user_id);

CREATE TABLE resource_allocations (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    cpu_limit REAL DEFAULT '1.0' NOT NULL,
    mem_limit TEXT DEFAULT '2G' NOT NULL,
    disk_quota TEXT DEFAULT '5G' NOT NULL,
    gpu_access INTEGER DEFAULT '0' NOT NULL,
    disk_hard TEXT,
    tasks_limit INTEGER DEFAULT '512' NOT NULL,
    UNIQUE (user_id),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE sessions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    token_hash BLOB NOT NULL,
    user_id INTEGER NOT NULL,
    kind TEXT DEFAULT 'browser' NOT NULL,
    csrf TEXT DEFAULT '' NOT NULL,
    created_at INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    address TEXT DEFAULT '' NOT NULL,
    user_agent TEXT DEFAULT '' NOT NULL,
    methods TEXT DEFAULT 'pwd' NOT NULL,
    proved_at INTEGER DEFAULT '0' NOT NULL,
    UNIQUE (token_hash),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX ix_sessions_user_id ON sessions (user_id);

CREATE TABLE totps (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    secret BLOB NOT NULL,
    active INTEGER DEFAULT '0' NOT NULL,
    last_step INTEGER DEFAULT '0' NOT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP NOT NULL,
    activated_at TEXT,
    UNIQUE (user_id),
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE oidc_grants (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    client_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    session_id INTEGER,
    code_hash BLOB,
    code_expires_at INTEGER NOT NULL,
    redirect_uri TEXT NOT NULL,
    challenge TEXT DEFAULT '' NOT NULL,
    nonce TEXT DEFAULT '' NOT NULL,
    scopes TEXT DEFAULT '' NOT NULL,
    methods TEXT DEFAULT '' NOT NULL,
    address TEXT DEFAULT '' NOT NULL,
    signed_in_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    redeemed INTEGER DEFAULT '0' NOT NULL,
    FOREIGN KEY(client_id) REFERENCES oidc_clients (id) ON DELETE CASCADE,
    FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE SET NULL,
    UNIQUE (code_hash)
);
CREATE INDEX ix_oidc_grants_client_id ON oidc_grants (client_id);
CREATE INDEX ix_oidc_grants_session_id ON oidc_grants (session_id);
CREATE INDEX ix_oidc_grants_user_id ON oidc_grants (user_id);

CREATE TABLE oidc_tokens (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    grant_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    token_hash BLOB NOT NULL,
    scopes TEXT DEFAULT '' NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    current BLOB,
    CONSTRAINT ck_kind CHECK (kind IN ('access', 'refresh')),
    FOREIGN KEY(grant_id) REFERENCES oidc_grants (id) ON DELETE CASCADE,
    UNIQUE (token_hash)
);
CREATE INDEX ix_oidc_tokens_expires_at ON oidc_tokens (expires_at);
CREATE INDEX ix_oidc_tokens_grant_id ON oidc_tokens (grant_id);

CREATE TRIGGER users_status_to_is_active AFTER UPDATE OF status ON users
WHEN NEW.is_active <> (NEW.status IN ('pending', 'active'))
BEGIN UPDATE users SET is_active = (NEW.status IN ('pending', 'active')) WHERE id = NEW.id; END;
CREATE TRIGGER users_is_active_off AFTER UPDATE OF is_active ON users
WHEN NOT NEW.is_active AND NEW.status IN ('pending', 'active')
BEGIN UPDATE users SET status = 'inactive' WHERE id = NEW.id; END;
CREATE TRIGGER users_is_active_on AFTER UPDATE OF is_active ON users
WHEN NEW.is_active AND NEW.status = 'inactive'
BEGIN UPDATE users SET status = 'active' WHERE id = NEW.id; END;
CREATE TRIGGER users_is_active_not_now AFTER UPDATE OF is_active ON users
WHEN NEW.is_active AND NEW.status IN ('deleted', 'purging', 'purge-error')
BEGIN UPDATE users SET is_active = 0 WHERE id = NEW.id; END;
CREATE TRIGGER users_insert_inactive AFTER INSERT ON users
WHEN NOT NEW.is_active AND NEW.status IN ('pending', 'active')
BEGIN UPDATE users SET status = 'inactive' WHERE id = NEW.id; END;
CREATE TRIGGER users_insert_not_active AFTER INSERT ON users
WHEN NEW.is_active AND NEW.status NOT IN ('pending', 'active')
BEGIN UPDATE users SET is_active = 0 WHERE id = NEW.id; END;
CREATE TRIGGER users_first_generation AFTER INSERT ON users
WHEN NEW.generation = 1 AND NEW.host_generation = 0
BEGIN UPDATE users SET generation = (NEW.id & 536870911) << 20 WHERE id = NEW.id; END;
CREATE TRIGGER users_wish AFTER UPDATE OF status, full_name, shell, shadow_hash, ssh_keys, allowed_client_ip,
must_change_password ON users
WHEN (NEW.full_name, NEW.shell, NEW.ssh_keys, NEW.allowed_client_ip, NEW.must_change_password)
  <> (OLD.full_name, OLD.shell, OLD.ssh_keys, OLD.allowed_client_ip, OLD.must_change_password)
  OR (NEW.shadow_hash IS NOT NULL AND NEW.shadow_hash IS NOT OLD.shadow_hash)
  OR (NEW.status <> OLD.status AND NOT (OLD.status = 'pending' AND NEW.status = 'active'))
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.id; END;
CREATE TRIGGER allocations_wish AFTER UPDATE ON resource_allocations
WHEN (NEW.cpu_limit, NEW.mem_limit, NEW.disk_quota, NEW.gpu_access, NEW.tasks_limit, ifnull(NEW.disk_hard, ''))
  <> (OLD.cpu_limit, OLD.mem_limit, OLD.disk_quota, OLD.gpu_access, OLD.tasks_limit, ifnull(OLD.disk_hard, ''))
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END;
CREATE TRIGGER allocations_wish_added AFTER INSERT ON resource_allocations
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END;
CREATE TRIGGER allocations_wish_removed AFTER DELETE ON resource_allocations
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END;
CREATE TRIGGER members_wish_added AFTER INSERT ON group_members
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END;
CREATE TRIGGER members_wish_removed AFTER DELETE ON group_members
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END;
CREATE TRIGGER totps_wish AFTER UPDATE OF secret, active ON totps
WHEN (NEW.secret, NEW.active) <> (OLD.secret, OLD.active)
BEGIN UPDATE users SET generation = generation + 1 WHERE id = NEW.user_id; END;
CREATE TRIGGER totps_wish_removed AFTER DELETE ON totps WHEN OLD.active
BEGIN UPDATE users SET generation = generation + 1 WHERE id = OLD.user_id; END;
