//! What a peer reads here: its certificate says who it is, a grant what it may.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use serde_json::Value;

use super::Gateway;
use crate::federation::grant::{Ask, BearerToken, Denial, Scope, instance_names};
use crate::federation::identity::Stranger;
use crate::federation::moment::Moment;
use crate::federation::peer::SpawnRole;
use crate::federation::pki::verify::names_of;
use crate::federation::resources::{Kind, all};
use crate::federation::site::SiteId;
use crate::federation::wire::ResourceAnswer;
use crate::model::Name;

/// How a call comes in: nothing of it is what the caller says.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// The chain that it showed, whose key it has.
    pub chain: &'a [CertificateDer<'a>],
    /// The socket's other end.
    pub source: IpAddr,
    /// The network of ours that the listener is in, if it is in one.
    pub network: Option<&'a Name>,
}

/// What a peer asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its grant's bearer token.
    pub bearer: Option<&'a str>,
    /// Which kind.
    pub kind: &'a str,
    /// Which one; none is all.
    pub id: Option<&'a str>,
    /// Behind which one to go on.
    pub after: Option<&'a str>,
}

/// How much of what is told goes into one answer, in bytes: with what is around it, it stays below `MAX_BODY`.
const PAGE: usize = 48 * 1024;

/// A resource isn't told.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// Nobody whom we know.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// No grant allows it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The operators haven't compared the words.
    #[error("this site's operator hasn't verified the peering yet")]
    Unverified,
    /// Its data resides elsewhere.
    #[error("your data resides elsewhere than this site's, and its operator refuses that")]
    Border,
    /// There is no such kind here.
    #[error("no such kind of resource is served: there are {}", Kind::ALL.map(Kind::as_str).join(", "))]
    Kind,
    /// The fleet isn't known: nothing can be said about what there is.
    #[error("this site's fleet can't be read at present")]
    NoFleet,
}

impl Gateway {
    /// Tells a peer of a resource, or of all of a kind.
    ///
    /// # Errors
    /// It isn't known, no grant allows it, or there is no such kind.
    pub fn resource(
        &self,
        via: Via<'_>,
        asked: Asked<'_>,
        wall: Moment,
    ) -> Result<ResourceAnswer, ResourceError> {
        let peer = self.identify(via.chain, wall)?;
        let now = self.ledger.read(|book| book.now(wall));
        let grant = if let Some(bearer) = asked.bearer {
            let token = BearerToken::parse(bearer).ok_or(Denial::Unresolved)?;
            let grant = self.ledger.read(|book| book.grant(&token.grant()).cloned());
            grant.filter(|grant| grant.digest == token.digest())
        } else {
            // A managed child's parent is known by its certificate alone.
            let is_parent = peer.role == SpawnRole::Child;
            let authority = self.ledger.read(|book| {
                let mut of_parents = book.grants().filter(|grant| grant.is_authority_of(peer.id, now));
                of_parents.next().cloned()
            });
            Some(authority.filter(|_| is_parent).ok_or(Denial::NoToken)?)
        };
        let grant = grant.ok_or(Denial::Unresolved)?;
        let fleet = self.fleet();
        let network = via.network.map(|name| {
            let number = fleet.as_ref().and_then(|fleet| fleet.networks.get(name));
            std::iter::once(name.to_string())
                .chain(number.map(|network| network.id.to_string()))
                .collect()
        });
        let ask = Ask {
            peer: peer.id,
            kind: asked.kind,
            id: asked.id,
            scope: Scope::Read,
            instance: instance_of(via.chain),
            network: network.unwrap_or_default(),
            source: via.source,
        };
        grant.judge(&ask, now)?;
        if !self.is_verified(&peer) {
            return Err(ResourceError::Unverified);
        }
        if !self.border(&peer).is_open() {
            return Err(ResourceError::Border);
        }
        let served = Kind::of(asked.kind).ok_or(ResourceError::Kind)?;
        let fleet = fleet.ok_or(ResourceError::NoFleet)?;
        let found = all(&fleet, served, &peer.alias)
            .into_iter()
            .filter(|(names, _)| asked.id.is_none_or(|id| names.iter().any(|name| name == id)))
            .map(|(_, told)| told);
        let (resources, next) = page(found, asked.after);
        Ok(ResourceAnswer {
            kind: asked.kind.to_owned(),
            id: asked.id.map(str::to_owned),
            exists: !resources.is_empty(),
            account_id: self.site.clone(),
            grant_id: grant.id,
            fetched_at: now,
            resources,
            next,
        })
    }
}

/// What fits into one answer, and behind which one the next goes on.
fn page(found: impl Iterator<Item = Value>, after: Option<&str>) -> (Vec<Value>, Option<String>) {
    let mut sorted: Vec<(String, Value)> = found
        .map(|told| (told["id"].as_str().unwrap_or_default().to_owned(), told))
        .filter(|(id, _)| after.is_none_or(|after| id.as_str() > after))
        .collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
    for (id, told) in sorted {
        bytes += told.to_string().len() + 1;
        if bytes > PAGE && !page.is_empty() {
            return (page, last);
        }
        page.push(told);
        last = Some(id);
    }
    (page, None)
}

/// What the calling node may be called: its certificate's URI says so, and is as good as the peer's CA.
pub(super) fn instance_of(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let uris = chain
        .first()
        .and_then(|leaf| names_of(leaf).ok())
        .map(|names| names.uris);
    let known = uris.iter().flatten().find_map(|uri| {
        let site = SiteId::of_uri(uri)?;
        let node = Name::new(uri.rsplit('/').next()?).ok()?;
        Some((site, node))
    });
    known.map_or_else(Vec::new, |(site, node)| instance_names(site.prefix(), &node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_lose_and_repeat_nothing() {
        let all: Vec<Value> = (0..3_000)
            .rev()
            .map(|n| json!({ "id": format!("node-{n:05}"), "x": "y".repeat(30) }))
            .collect();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (found, next) = page(all.clone().into_iter(), after.as_deref());
            assert!(json!(found).to_string().len() <= PAGE + 2);
            seen.extend(found.iter().map(|told| told["id"].as_str().unwrap().to_owned()));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(
            seen,
            (0..3_000).map(|n| format!("node-{n:05}")).collect::<Vec<_>>()
        );
        let (one, next) = page(std::iter::once(json!({ "id": "x", "y": "z".repeat(PAGE) })), None);
        assert_eq!((one.len(), next), (1, None), "one is told, however long");
        assert_eq!(page(std::iter::empty(), None), (Vec::new(), None));
    }
}
