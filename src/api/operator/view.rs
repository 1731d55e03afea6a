//! A peer, as operators are shown it; and what of it stands in a list.

use ipnet::Ipv6Net;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::federation::gateway::Gateway;
use crate::federation::moment::Moment;
use crate::federation::peer::{Endpoint, Peer, PeerId, SpawnMode, SpawnRole, Status};
use crate::federation::site::SiteId;
use crate::federation::token::Fingerprint;
use crate::model::Name;
use crate::model::host::Cluster;

/// All that is known of it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Peer)]
pub(super) struct PeerView<'a> {
    #[serde(flatten)]
    listed: ListedView<'a>,
    signed_here: bool,
    cluster: Option<&'a Cluster>,
    #[schema(value_type = Option<String>)]
    remote_prefix_advertisement: Option<Ipv6Net>,
    trust_anchors: Vec<Fingerprint>,
    contract_version_agreed: Option<u32>,
    verification_words: Option<&'a str>,
    signed_at: Option<Moment>,
    endpoints: &'a [Endpoint],
    #[schema(value_type = Object)]
    capabilities: &'a Map<String, Value>,
    extension_slugs: &'a [String],
    platform_version: Option<&'a str>,
    data_residency: Option<&'a str>,
    dialable: Option<bool>,
    generation: u32,
    allowed_transitions: &'static [Status],
}

impl<'a> PeerView<'a> {
    pub(super) fn of(gateway: &Gateway, peer: &'a Peer) -> Self {
        let trust = peer.trust.as_ref();
        let anchors = trust.iter().flat_map(|trust| &trust.anchors);
        Self {
            listed: ListedView::of(gateway, peer),
            signed_here: trust
                .is_some_and(|trust| trust.signed_here.iter().any(|anchor| anchor.until.is_none())),
            cluster: peer.cluster.as_ref(),
            remote_prefix_advertisement: trust.and_then(|trust| trust.site.prefix()),
            trust_anchors: anchors.map(|anchor| anchor.fingerprint).collect(),
            contract_version_agreed: peer.contract_version,
            verification_words: peer.words.as_deref(),
            signed_at: peer.signed_at,
            endpoints: &peer.declared.endpoints,
            capabilities: &peer.declared.capabilities,
            extension_slugs: &peer.declared.extension_slugs,
            platform_version: peer.declared.platform_version.as_deref(),
            data_residency: peer.declared.data_residency.as_deref(),
            dialable: peer.declared.dialable,
            generation: peer.generation,
            allowed_transitions: peer.status.allowed(),
        }
    }
}

/// A peer in a list: which it is, and how it is; the rest is shown one by one. Borrowed from the row: 10,000 of them are one
/// answer, written as they are looked at.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ListedPeer)]
pub(super) struct ListedView<'a> {
    id: PeerId,
    alias: &'a Name,
    remote_instance_url: &'a str,
    peer_kind: &'static str,
    status: Status,
    since: Moment,
    reason: Option<&'a str>,
    spawn_role: SpawnRole,
    spawn_mode: SpawnMode,
    site_id: Option<&'a SiteId>,
    verified: bool,
    last_handshake_at: Option<Moment>,
    last_heartbeat_at: Option<Moment>,
    acceptance_token_expires_at: Option<Moment>,
}

impl<'a> ListedView<'a> {
    pub(super) fn of(gateway: &Gateway, peer: &'a Peer) -> Self {
        Self {
            id: peer.id,
            alias: &peer.alias,
            remote_instance_url: &peer.url,
            peer_kind: "platform",
            status: peer.status,
            since: peer.since,
            reason: peer.reason.as_deref(),
            spawn_role: peer.role,
            spawn_mode: peer.mode,
            site_id: peer.trust.as_ref().map(|trust| &trust.site),
            verified: peer.verified,
            last_handshake_at: peer.last_handshake_at,
            last_heartbeat_at: gateway.heard.last(peer),
            acceptance_token_expires_at: peer.offer.as_ref().map(|offer| offer.expires_at),
        }
    }
}
