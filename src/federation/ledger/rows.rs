//! The ledger's rows: how what is in memory is written, and read back.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::asked::Pausing;
use super::book::Changes;
use super::{Book, Fuse, Head, KeptAnswer, LedgerError, Writer, audit};
use crate::federation::approval::Approval;
use crate::federation::bridge::BridgeRow;
use crate::federation::capability::Capability;
use crate::federation::grant::Grant;
use crate::federation::moment::Moment;
use crate::federation::operators::IssuedToken;
use crate::federation::peer::Peer;
use crate::federation::subscription::Subscription;
use crate::federation::token::Fingerprint;

/// A setting that belongs to the ledger.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
        .optional()
}

/// Writes what a transaction changes; the audit's new head. Each statement is a place where the power may go.
pub(super) fn write(writer: &mut Writer, changes: &Changes, now: Moment) -> rusqlite::Result<Head> {
    let Writer {
        connection,
        head,
        fuse,
        ..
    } = writer;
    let mut head = *head;
    fuse.carry()?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for peer in changes.peers.values() {
        fuse.carry()?;
        put_peer(&transaction, peer)?;
    }
    put_docs(&transaction, fuse, changes)?;
    for (table, is_void) in [("answers", changes.void_answers), ("operator_tokens", false)] {
        fuse.carry()?;
        let until = if is_void { i64::MAX } else { now.millis() };
        transaction.execute(&format!("DELETE FROM {table} WHERE until <= ?1"), [until])?;
    }
    for happening in &changes.happenings {
        fuse.carry()?;
        head = audit::append(&transaction, head, happening, now)?;
    }
    let epoch = changes.epoch.map(|epoch| ("epoch", epoch.to_string()));
    let trust = changes
        .own_trust
        .as_ref()
        .map(json)
        .transpose()?
        .map(|doc| ("trust", doc));
    let pause = match &changes.pausing {
        Some(Pausing::Begins(pause)) => Some(("pause", json(pause)?)),
        Some(Pausing::Ends) => Some(("pause", "null".to_owned())),
        None => None,
    };
    let latest = changes.set_back.unwrap_or(now);
    for (key, value) in std::iter::once(("latest", latest.millis().to_string()))
        .chain(epoch)
        .chain(trust)
        .chain(pause)
    {
        fuse.carry()?;
        put_meta(&transaction, key, &value)?;
    }
    fuse.carry()?;
    transaction.commit()?;
    // On the disk, and nobody was told.
    fuse.carry()?;
    Ok(head)
}

/// Everything that is a document under a key.
fn put_docs(transaction: &Transaction<'_>, fuse: &mut Fuse, changes: &Changes) -> rusqlite::Result<()> {
    for answer in &changes.answers {
        fuse.carry()?;
        transaction.execute(
            "INSERT OR REPLACE INTO answers (token, until, doc) VALUES (?1, ?2, ?3)",
            params![
                Fingerprint(answer.token.0).to_string(),
                answer.until.millis(),
                json(answer)?
            ],
        )?;
    }
    for grant in changes.grants.values() {
        fuse.carry()?;
        transaction.execute(
            "INSERT OR REPLACE INTO grants (id, peer, doc) VALUES (?1, ?2, ?3)",
            params![grant.id.to_string(), grant.peer.to_string(), json(grant)?],
        )?;
    }
    for (id, capability) in &changes.capabilities {
        fuse.carry()?;
        match capability {
            Some(capability) => transaction.execute(
                "INSERT OR REPLACE INTO capabilities (id, peer, doc) VALUES (?1, ?2, ?3)",
                params![id.to_string(), capability.peer.to_string(), json(capability)?],
            )?,
            None => transaction.execute("DELETE FROM capabilities WHERE id = ?1", [id.to_string()])?,
        };
    }
    for ((peer, id), row) in &changes.bridges {
        fuse.carry()?;
        let (peer, id) = (peer.to_string(), id.to_string());
        match row {
            Some(row) => transaction.execute(
                "INSERT OR REPLACE INTO bridges (id, peer, doc) VALUES (?1, ?2, ?3)",
                params![id, peer, &*zeroize::Zeroizing::new(json(row)?)],
            )?,
            None => transaction.execute(
                "DELETE FROM bridges WHERE peer = ?1 AND id = ?2",
                params![peer, id],
            )?,
        };
    }
    for ((peer, service), subscription) in &changes.subscriptions {
        fuse.carry()?;
        let (peer, service) = (peer.to_string(), service.as_str());
        match subscription {
            Some(subscription) => transaction.execute(
                "INSERT OR REPLACE INTO subscriptions (peer, service, doc) VALUES (?1, ?2, ?3)",
                params![peer, service, json(subscription)?],
            )?,
            None => transaction.execute(
                "DELETE FROM subscriptions WHERE peer = ?1 AND service = ?2",
                params![peer, service],
            )?,
        };
    }
    for issued in changes.operator_tokens.values() {
        fuse.carry()?;
        transaction.execute(
            "INSERT OR REPLACE INTO operator_tokens (jti, until, doc) VALUES (?1, ?2, ?3)",
            params![issued.jti.to_string(), issued.expires_at.millis(), json(issued)?],
        )?;
    }
    for (id, approval) in &changes.approvals {
        fuse.carry()?;
        match approval {
            Some(approval) => transaction.execute(
                "INSERT OR REPLACE INTO approvals (id, doc) VALUES (?1, ?2)",
                params![id.to_string(), json(approval)?],
            )?,
            None => transaction.execute("DELETE FROM approvals WHERE id = ?1", [id.to_string()])?,
        };
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn put_meta(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [key, value],
    )?;
    Ok(())
}

pub(super) fn put_peer(connection: &Connection, peer: &Peer) -> rusqlite::Result<()> {
    let site = peer.trust.as_ref().map(|trust| trust.site.to_string());
    // Thousands at a time, now and then: read by SQLite once.
    let mut statement = connection.prepare_cached(
        "INSERT INTO peers (id, status, url, site, doc) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, url = excluded.url, site = excluded.site, doc = excluded.doc",
    )?;
    statement.execute(params![
        peer.id.to_string(),
        peer.status.as_str(),
        peer.url,
        site,
        json(peer)?
    ])?;
    Ok(())
}

pub(super) fn read_book(connection: &Connection, path: &Path) -> Result<Book, LedgerError> {
    let sql = |source| LedgerError::Sql {
        path: path.to_owned(),
        source,
    };
    let mut book = Book {
        head: audit::head(connection).map_err(sql)?,
        ..Book::default()
    };
    docs(connection, path, "peers", "id", |peer| {
        book.put_peer(peer);
    })?;
    docs(connection, path, "answers", "token", |answer: KeptAnswer| {
        book.answers.insert(answer.token, answer);
    })?;
    docs(connection, path, "grants", "id", |grant: Grant| {
        book.grants.insert(grant.id, Arc::new(grant));
    })?;
    docs(
        connection,
        path,
        "capabilities",
        "id",
        |capability: Capability| {
            book.capabilities.insert(capability.id, Arc::new(capability));
        },
    )?;
    docs(connection, path, "bridges", "id", |row: BridgeRow| {
        book.bridges.insert((row.peer, row.id), Arc::new(row));
    })?;
    docs(
        connection,
        path,
        "subscriptions",
        "peer",
        |subscription: Subscription| {
            let key = (subscription.peer, subscription.service.clone());
            book.subscriptions.insert(key, Arc::new(subscription));
        },
    )?;
    docs(
        connection,
        path,
        "operator_tokens",
        "jti",
        |issued: IssuedToken| {
            book.operator_tokens.insert(issued.jti, issued);
        },
    )?;
    docs(connection, path, "approvals", "id", |approval: Approval| {
        book.approvals.insert(approval.id, Arc::new(approval));
    })?;
    let trust = meta(connection, "trust").map_err(sql)?;
    let trust = trust.map(|doc| serde_json::from_str(&doc)).transpose();
    book.own_trust = trust.map_err(|source| LedgerError::Row {
        path: path.to_owned(),
        row: "meta trust".to_owned(),
        source,
    })?;
    let pause = meta(connection, "pause").map_err(sql)?;
    let pause = serde_json::from_str(pause.as_deref().unwrap_or("null"));
    book.pause = pause.map_err(|source| LedgerError::Row {
        path: path.to_owned(),
        row: "meta pause".to_owned(),
        source,
    })?;
    let latest = meta(connection, "latest").map_err(sql)?;
    book.latest = latest
        .and_then(|millis| millis.parse().ok())
        .map(Moment::from_millis);
    let epoch = meta(connection, "epoch").map_err(sql)?;
    book.epoch = epoch.and_then(|text| text.parse().ok()).unwrap_or(1);
    Ok(book)
}

/// Hands every document of a table to `take`, one at a time: all of them at once would be there twice.
fn docs<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    path: &Path,
    table: &str,
    key: &str,
    mut take: impl FnMut(T),
) -> Result<(), LedgerError> {
    let sql = |source| LedgerError::Sql {
        path: path.to_owned(),
        source,
    };
    let mut statement = connection
        .prepare(&format!("SELECT {key}, doc FROM {table}"))
        .map_err(sql)?;
    let mut rows = statement.query([]).map_err(sql)?;
    while let Some(row) = rows.next().map_err(sql)? {
        let doc = row.get_ref(1).and_then(|doc| Ok(doc.as_str()?)).map_err(sql)?;
        match serde_json::from_str(doc) {
            Ok(found) => take(found),
            Err(source) => {
                let key: String = row.get(0).map_err(sql)?;
                return Err(LedgerError::Row {
                    path: path.to_owned(),
                    row: format!("{table} {key}"),
                    source,
                });
            }
        }
    }
    Ok(())
}
