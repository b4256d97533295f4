//! Tables: the guide's MySQL shapes in SQLite's types, and Forebay's own. Created when missing; what exists is taken as it is.

/// True for rows of other programs: Forebay's own have a msgid of 20 letters and digits. Where the query says the same in the same
/// words, SQLite uses the index below.
macro_rules! foreign_rows {
    () => {
        "(length(msgid) is not 20 or msgid glob '*[^0-9A-Za-z]*')"
    };
}
pub(super) use foreign_rows;

/// The statements, run in order at each connect.
pub(super) const STATEMENTS: &[&str] = &[
    "create table if not exists mqtt_client (
        id integer primary key autoincrement, clientid text default null, state text default null, node text default null,
        online_at datetime default null, offline_at datetime default null, created timestamp default current_timestamp)",
    "create unique index if not exists mqtt_client_key on mqtt_client (clientid)",
    "create table if not exists mqtt_sub (
        id integer primary key autoincrement, clientid text default null, topic text default null, qos integer default null,
        created timestamp default current_timestamp)",
    "create unique index if not exists mqtt_sub_key on mqtt_sub (clientid, topic)",
    "create table if not exists mqtt_msg (
        id integer primary key autoincrement, msgid text default null, topic text not null, sender text default null,
        node text default null, qos integer not null default 0, retain integer default null, payload blob,
        arrived datetime not null)",
    "create unique index if not exists mqtt_msg_key on mqtt_msg (msgid)",
    "create index if not exists mqtt_msg_topic on mqtt_msg (topic, id)",
    concat!("create index if not exists mqtt_msg_foreign on mqtt_msg (topic, id) where ", foreign_rows!()),
    "create table if not exists mqtt_retain (
        id integer primary key autoincrement, topic text default null, msgid text default null, sender text default null,
        node text default null, qos integer default null, payload blob,
        arrived timestamp not null default current_timestamp)",
    "create unique index if not exists mqtt_retain_key on mqtt_retain (topic)",
    "create table if not exists mqtt_acked (
        id integer primary key autoincrement, clientid text default null, topic text default null, mid integer default null,
        created timestamp default null)",
    "create unique index if not exists mqtt_acked_key on mqtt_acked (clientid, topic)",
    "create table if not exists forebay_position (
        log_id integer not null, sink text not null, lane integer not null, lsn integer not null,
        primary key (log_id, sink, lane)) without rowid",
    "create table if not exists forebay_imported (
        msgid text primary key, row_key text not null) without rowid",
    "create unique index if not exists forebay_imported_key on forebay_imported (row_key)",
    "create table if not exists forebay_expiry (
        msgid text not null, kind text not null, topic text not null, expires_us integer not null,
        primary key (msgid, kind)) without rowid",
    "create index if not exists forebay_expiry_due on forebay_expiry (expires_us)",
];

/// The statements as a script.
pub(crate) fn schema_text() -> String {
    STATEMENTS.iter().map(|statement| format!("{statement};\n")).collect()
}
