//! Grants: what a peer may read here, and from where.
//!
//! A peer's certificate says who calls; a grant's bearer token says what the caller was given. Both are needed, and every
//! axis that the grant restricts must match what the connection itself shows. No header is looked at.
//!
//! ```text
//! fg-<grant id>.<32 random bytes, base64url>        only the SHA-256 of the secret is kept
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroize as _;

use super::moment::Moment;
use super::peer::PeerId;
use super::token::TokenDigest;
use super::wire::is_longer;
use crate::model::{Name, naming};
use ipnet::Ipv6Net;

const DAY: Duration = Duration::from_secs(86_400);
/// The shortest life of a grant.
pub const MIN_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// How long a grant lives unless its operator says otherwise, in days.
pub const DEFAULT_DAYS: u64 = 30;
/// The longest that an operator may ask for, in days.
pub const MAX_DAYS: u64 = 365;
/// How long a revoked grant is shown before it is archived.
pub const SHOWN: Duration = Duration::from_secs(90 * 86_400);

const MAX_SUBJECT: usize = 256;
const MAX_KIND: usize = 64;
const MAX_ID: usize = 128;
const MAX_ENTRY: usize = 64;
const MAX_ENTRIES: usize = 256;
const PREFIX: &str = "fg-";
/// The longest token that is looked at.
const MAX_TOKEN: usize = 128;

/// The id of a grant: a UUID of version 7 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(pub Uuid);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What may be done. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantScope)]
pub enum Scope {
    /// Read it.
    Read,
    /// Change it.
    Write,
    /// Manage who else may.
    Admin,
    /// Move it to another site.
    Migrate,
}

/// What a grant came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantOrigin)]
pub enum Origin {
    /// An operator.
    #[default]
    Operator,
    /// The acceptance of a managed child: its parent's authority over it. To revoke it emancipates the child.
    ManagedChildOperator,
}

/// Where a grant stands: derived, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantState)]
pub enum State {
    /// It is good.
    Active,
    /// Its time is over.
    Expired,
    /// An operator has ended it.
    Revoked,
    /// It was revoked long ago.
    Archived,
}

impl State {
    /// The word that stands in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Archived => "archived",
        }
    }
}

/// What a new grant shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// For whom at the peer: a word for people and for the audit.
    pub remote_subject: String,
    /// Which kind of thing.
    pub resource_kind: String,
    /// Which one of it; none is all.
    pub resource_id: Option<String>,
    /// What may be done; empty is to read.
    pub scopes: BTreeSet<Scope>,
    /// From which nodes of the peer: names or instance ids.
    pub node_instance_ids: Vec<String>,
    /// Over which networks of ours.
    pub sdwan_network_ids: Vec<String>,
    /// From which addresses.
    pub source_cidrs: Vec<String>,
}

/// A grant isn't one that could be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// A text is missing or too long.
    #[error("{field} is {}", if *.most == 0 { "missing".to_owned() } else { format!("longer than {most} characters") })]
    Text {
        /// Which.
        field: &'static str,
        /// How long it may be; 0 where it is missing.
        most: usize,
    },
    /// An axis has something that it can't have.
    #[error("{axis}: {reason}")]
    Axis {
        /// Which.
        axis: Axis,
        /// What is wrong with it.
        reason: String,
    },
    /// It would end before it could be used.
    #[error("a grant lives at least {} days", MIN_LIFE.as_secs() / 86_400)]
    Life,
}

/// What a grant may be restricted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GrantAxis)]
pub enum Axis {
    /// The calling node.
    NodeInstanceIds,
    /// The network that is called over.
    SdwanNetworkIds,
    /// The calling address.
    SourceCidrs,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeInstanceIds => "node_instance_ids",
            Self::SdwanNetworkIds => "sdwan_network_ids",
            Self::SourceCidrs => "source_cidrs",
        })
    }
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// To whom it was given.
    pub peer: PeerId,
    /// What it came from.
    #[serde(default)]
    pub origin: Origin,
    /// For whom at the peer.
    pub remote_subject: String,
    /// Which kind of thing.
    pub resource_kind: String,
    /// Which one of it; none is all.
    pub resource_id: Option<String>,
    /// What may be done.
    pub scopes: BTreeSet<Scope>,
    /// From which nodes of the peer; empty is from all.
    pub node_instance_ids: BTreeSet<String>,
    /// Over which networks of ours; empty is over all.
    pub sdwan_network_ids: BTreeSet<String>,
    /// From which addresses; empty is from all.
    pub source_cidrs: BTreeSet<IpNet>,
    /// What is kept of its token.
    pub digest: TokenDigest,
    /// When it was given.
    pub issued_at: Moment,
    /// When it is over.
    pub expires_at: Moment,
    /// When an operator ended it.
    pub revoked_at: Option<Moment>,
    /// Why.
    pub revoke_reason: Option<String>,
    /// When it was put away.
    pub archived_at: Option<Moment>,
}

impl Grant {
    /// A grant with these terms, its secret's digest given.
    ///
    /// # Errors
    /// Something of it can't be.
    pub fn new(
        id: GrantId,
        peer: PeerId,
        terms: Terms,
        digest: TokenDigest,
        now: Moment,
        life: Duration,
    ) -> Result<Self, TermsError> {
        text("remote_subject", &terms.remote_subject, MAX_SUBJECT)?;
        text("resource_kind", &terms.resource_kind, MAX_KIND)?;
        if let Some(id) = &terms.resource_id {
            text("resource_id", id, MAX_ID)?;
        }
        if life < MIN_LIFE {
            return Err(TermsError::Life);
        }
        let node_instance_ids = entries(Axis::NodeInstanceIds, terms.node_instance_ids)?;
        let sdwan_network_ids = entries(Axis::SdwanNetworkIds, terms.sdwan_network_ids)?;
        let mut source_cidrs = BTreeSet::new();
        for entry in entries(Axis::SourceCidrs, terms.source_cidrs)? {
            let cidr = entry
                .parse::<IpNet>()
                .or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            let cidr = cidr.map_err(|_| TermsError::Axis {
                axis: Axis::SourceCidrs,
                reason: format!("{entry:?} is neither an address nor a prefix like 10.0.0.0/8"),
            })?;
            source_cidrs.insert(cidr.trunc());
        }
        let scopes = if terms.scopes.is_empty() {
            BTreeSet::from([Scope::Read])
        } else {
            terms.scopes
        };
        Ok(Self {
            id,
            peer,
            origin: Origin::Operator,
            remote_subject: terms.remote_subject,
            resource_kind: terms.resource_kind,
            resource_id: terms.resource_id,
            scopes,
            node_instance_ids,
            sdwan_network_ids,
            source_cidrs,
            digest,
            issued_at: now,
            expires_at: now.after(life),
            revoked_at: None,
            revoke_reason: None,
            archived_at: None,
        })
    }

    /// Where it stands: the strongest of what is true.
    #[must_use]
    pub fn state(&self, now: Moment) -> State {
        if self.archived_at.is_some() {
            State::Archived
        } else if self.revoked_at.is_some() {
            State::Revoked
        } else if now >= self.expires_at {
            State::Expired
        } else {
            State::Active
        }
    }

    /// The axes that restrict nothing.
    #[must_use]
    pub fn unrestricted_axes(&self) -> Vec<Axis> {
        [
            (Axis::NodeInstanceIds, self.node_instance_ids.is_empty()),
            (Axis::SdwanNetworkIds, self.sdwan_network_ids.is_empty()),
            (Axis::SourceCidrs, self.source_cidrs.is_empty()),
        ]
        .into_iter()
        .filter_map(|(axis, is_open)| is_open.then_some(axis))
        .collect()
    }

    /// Whether it is what a parent's calls to its managed child are judged by.
    #[must_use]
    pub fn is_authority_of(&self, peer: PeerId, now: Moment) -> bool {
        let is_authority = match self.origin {
            Origin::ManagedChildOperator => true,
            Origin::Operator => false,
        };
        is_authority && self.peer == peer && self.state(now) == State::Active
    }

    /// Whether it should be put away.
    #[must_use]
    pub fn is_old(&self, now: Moment) -> bool {
        self.archived_at.is_none() && self.revoked_at.is_some_and(|revoked| now.since(revoked) >= SHOWN)
    }

    /// Whether it allows what is asked.
    ///
    /// # Errors
    /// The first reason why not, in the order of the contract.
    pub fn judge(&self, ask: &Ask<'_>, now: Moment) -> Result<(), Denial> {
        if self.peer != ask.peer {
            return Err(Denial::Unresolved);
        }
        match self.state(now) {
            State::Active => {}
            State::Expired => return Err(Denial::Expired),
            State::Revoked | State::Archived => return Err(Denial::Revoked),
        }
        // A parent's authority is over everything that its managed child has.
        if self.origin == Origin::Operator && self.resource_kind != ask.kind {
            return Err(Denial::Kind);
        }
        if self.resource_id.is_some() && self.resource_id.as_deref() != ask.id {
            return Err(Denial::Id);
        }
        if !self.scopes.contains(&ask.scope) {
            return Err(Denial::Scope(ask.scope));
        }
        let allows = |entries: &BTreeSet<String>, names: &[String]| {
            entries.is_empty() || names.iter().any(|name| entries.contains(name))
        };
        if !allows(&self.node_instance_ids, &ask.instance) {
            return Err(Denial::Instance);
        }
        if !allows(&self.sdwan_network_ids, &ask.network) {
            return Err(Denial::Network);
        }
        let source = ask.source.to_canonical();
        if !self.source_cidrs.is_empty() && !self.source_cidrs.iter().any(|cidr| cidr.contains(&source)) {
            return Err(Denial::Source);
        }
        Ok(())
    }
}

fn text(field: &'static str, text: &str, most: usize) -> Result<(), TermsError> {
    if text.trim().is_empty() {
        return Err(TermsError::Text { field, most: 0 });
    }
    if is_longer(text, most) {
        return Err(TermsError::Text { field, most });
    }
    Ok(())
}

/// The entries of an axis: `["*"]` is the same as none, and never stands beside others.
fn entries(axis: Axis, given: Vec<String>) -> Result<BTreeSet<String>, TermsError> {
    let wrong = |reason: String| TermsError::Axis { axis, reason };
    if given.len() > MAX_ENTRIES {
        return Err(wrong(format!("more than {MAX_ENTRIES} entries")));
    }
    if let Some(entry) = given
        .iter()
        .find(|entry| entry.is_empty() || is_longer(entry, MAX_ENTRY))
    {
        return Err(wrong(format!(
            "an entry has 1 to {MAX_ENTRY} characters, not {}",
            entry.chars().count()
        )));
    }
    let entries: BTreeSet<String> = given.into_iter().collect();
    match (entries.contains("*"), entries.len()) {
        (false, _) => Ok(entries),
        (true, 1) => Ok(BTreeSet::new()),
        (true, _) => Err(wrong("\"*\" restricts nothing: it stands alone".to_owned())),
    }
}

/// What a caller asks, and what its connection shows of it.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Whose certificate it has.
    pub peer: PeerId,
    /// Which kind of thing.
    pub kind: &'a str,
    /// Which one of it.
    pub id: Option<&'a str>,
    /// What it would do.
    pub scope: Scope,
    /// What the calling node is called: empty where its certificate doesn't say.
    pub instance: Vec<String>,
    /// What the network is called that it comes over: empty where it is none of ours.
    pub network: Vec<String>,
    /// Where it calls from: the socket's address.
    pub source: IpAddr,
}

/// What the node may be called that a certificate's URI names: by its name, or by its instance id.
#[must_use]
pub fn instance_names(prefix: Option<Ipv6Net>, node: &Name) -> Vec<String> {
    let id = prefix.map(|prefix| naming::instance_id(prefix, node).to_string());
    std::iter::once(node.to_string()).chain(id).collect()
}

/// Why a grant doesn't allow something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// There is no token.
    #[error("a grant's bearer token is required")]
    NoToken,
    /// The token is none of this peer's.
    #[error("the grant is unknown")]
    Unresolved,
    /// Its time is over.
    #[error("the grant is expired")]
    Expired,
    /// It was ended.
    #[error("the grant is revoked")]
    Revoked,
    /// It is for another kind of thing.
    #[error("the grant is for another kind of resource")]
    Kind,
    /// It is for another one.
    #[error("the grant is for another resource")]
    Id,
    /// It doesn't go so far.
    #[error("the grant lacks the scope {}", scope_word(*.0))]
    Scope(Scope),
    /// The calling node isn't among its nodes.
    #[error("the calling NodeInstance isn't among those of the grant")]
    Instance,
    /// The network isn't among its networks.
    #[error("the call doesn't come over an SDWAN network of the grant")]
    Network,
    /// The address isn't among its prefixes.
    #[error("the calling address is in no CIDR of the grant")]
    Source,
}

const fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
        Scope::Migrate => "migrate",
    }
}

impl Denial {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::NoToken | Self::Unresolved | Self::Expired | Self::Revoked => 401,
            Self::Kind | Self::Id | Self::Scope(_) | Self::Instance | Self::Network | Self::Source => 403,
        }
    }
}

/// A grant's bearer token. Prints only through [`BearerToken::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    grant: GrantId,
    secret: [u8; 32],
}

impl Drop for BearerToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({}, …)", self.grant)
    }
}

impl BearerToken {
    /// Of this grant, from 32 random bytes.
    #[must_use]
    pub const fn new(grant: GrantId, secret: [u8; 32]) -> Self {
        Self { grant, secret }
    }

    /// Reads what a caller presents; none if it is no such token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (id, secret) = text.trim().strip_prefix(PREFIX)?.split_once('.')?;
        let grant = GrantId(Uuid::try_parse(id).ok()?);
        let secret = BASE64.decode(secret).ok()?.try_into().ok()?;
        // Only the one spelling that we hand out.
        (grant.to_string() == id).then_some(Self { grant, secret })
    }

    /// The text for the operator: shown once, never logged.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}.{}", self.grant, BASE64.encode(self.secret))
    }

    /// Which grant it claims to be.
    #[must_use]
    pub const fn grant(&self) -> GrantId {
        self.grant
    }

    /// What is kept of it; compared in constant time.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.secret).into())
    }
}

/// The life of a grant by what an operator asks: none is 30 days; fewer than 7 are 7, more than 365 are 365.
#[must_use]
pub fn life(days: Option<u64>) -> Duration {
    let days = days
        .unwrap_or(DEFAULT_DAYS)
        .clamp(MIN_LIFE.as_secs() / 86_400, MAX_DAYS);
    DAY * u32::try_from(days).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
