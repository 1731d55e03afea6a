//! What sites say to each other: contract version 1. Unknown fields are ignored; what is too long is refused.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bridge::{BridgeId, Half};
use super::grant::GrantId;
use super::moment::Moment;
use super::number;
use super::peer::{Declared, Endpoint, PeerId, Status};
use super::pki::request::Signed;
use super::schema::Word;
use super::site::SiteId;
use crate::model::Name;

/// The versions of the contract that this program keeps.
pub const CONTRACT_VERSIONS: [u32; 1] = [1];
/// The largest body, either way, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// The most endpoints that a peer may name.
pub const MAX_ENDPOINTS: usize = 8;
/// The most extensions that a peer may name.
const MAX_EXTENSIONS: usize = 256;
/// The longest word: a slug, a version, a scope.
const MAX_WORD: usize = 64;
/// The longest URL.
const MAX_URL: usize = 2_048;
/// Where the peer-facing API lives.
pub const API: &str = "/api/v1/system/federation_api";

/// `POST accept`.
#[derive(Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct AcceptRequest {
    /// The token, as the operator pasted it.
    pub acceptance_token: Option<String>,
    /// The version of the contract.
    pub contract_version: Option<Value>,
    /// The caller's root certificate: both sites stay sovereign.
    pub peer_ca_bundle_pem: Option<String>,
    /// The name that our certificate shall carry when we call.
    pub caller_inbound_subject: Option<String>,
    /// A certificate request (PKCS #10, PEM) instead: the caller is a child, and we sign for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr_pem: Option<String>,
    /// Where the caller's API is; none where it can't be dialled.
    pub caller_url: Option<String>,
    /// What the caller says of itself.
    #[serde(flatten)]
    pub said: Said,
}

impl std::fmt::Debug for AcceptRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("AcceptRequest")
            .field("contract_version", &self.contract_version)
            .field("caller_inbound_subject", &self.caller_inbound_subject)
            .field("caller_url", &self.caller_url)
            .finish_non_exhaustive()
    }
}

/// What a site says of itself; absent is unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Said {
    /// What it can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub capabilities: Option<Map<String, Value>>,
    /// What it is extended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256, value_type = Option<Vec<Word>>)]
    pub extension_slugs: Option<Vec<String>>,
    /// Where else it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 8)]
    pub endpoints: Option<Vec<Endpoint>>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub platform_version: Option<String>,
    /// Where its data resides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub data_residency: Option<String>,
    /// Whether it can be dialled; one behind NAT can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialable: Option<bool>,
}

/// Whether a text has more characters: lengths are counted as JSON Schema does (validation 6.3.1).
#[must_use]
pub fn is_longer(text: &str, most: usize) -> bool {
    text.chars().nth(most).is_some()
}

/// A field is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is too long: at most {most}")]
pub struct TooLong {
    /// The field.
    pub field: &'static str,
    /// How much it may be.
    pub most: usize,
}

impl Said {
    /// Whether nothing of it is longer than it may be.
    ///
    /// # Errors
    /// Something is.
    pub fn check(&self) -> Result<(), TooLong> {
        let words = |field, words: &[String], most| {
            if words.len() > most {
                return Err(TooLong { field, most });
            }
            if words.iter().any(|word| is_longer(word, MAX_WORD)) {
                return Err(TooLong {
                    field,
                    most: MAX_WORD,
                });
            }
            Ok(())
        };
        words(
            "extension_slugs",
            self.extension_slugs.as_deref().unwrap_or_default(),
            MAX_EXTENSIONS,
        )?;
        words("platform_version", self.platform_version.as_slice(), 1)?;
        words("data_residency", self.data_residency.as_slice(), 1)?;
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(TooLong {
                field: "endpoints",
                most: MAX_ENDPOINTS,
            });
        }
        for endpoint in endpoints {
            if is_longer(&endpoint.url, MAX_URL) {
                return Err(TooLong {
                    field: "endpoints.url",
                    most: MAX_URL,
                });
            }
            words("endpoints.scope", std::slice::from_ref(&endpoint.scope), 1)?;
        }
        Ok(())
    }

    /// Whether it says anything other than what was said last.
    #[must_use]
    pub fn is_news(&self, declared: &Declared) -> bool {
        fn differs<T: PartialEq>(said: Option<&T>, known: &T) -> bool {
            said.is_some_and(|said| said != known)
        }
        let said_differs = |said: &Option<String>, known: &Option<String>| said.is_some() && said != known;
        differs(self.capabilities.as_ref(), &declared.capabilities)
            || differs(self.extension_slugs.as_ref(), &declared.extension_slugs)
            || differs(self.endpoints.as_ref(), &declared.endpoints)
            || said_differs(&self.platform_version, &declared.platform_version)
            || said_differs(&self.data_residency, &declared.data_residency)
            || (self.dialable.is_some() && self.dialable != declared.dialable)
    }

    /// Takes over what was said; says whether anything is other than before.
    pub fn update(self, declared: &mut Declared) -> bool {
        let is_news = self.is_news(declared);
        if let Some(capabilities) = self.capabilities {
            declared.capabilities = capabilities;
        }
        if let Some(slugs) = self.extension_slugs {
            declared.extension_slugs = slugs;
        }
        if let Some(endpoints) = self.endpoints {
            declared.endpoints = endpoints;
        }
        if self.platform_version.is_some() {
            declared.platform_version = self.platform_version;
        }
        if self.data_residency.is_some() {
            declared.data_residency = self.data_residency;
        }
        if self.dialable.is_some() {
            declared.dialable = self.dialable;
        }
        is_news
    }
}

/// Reads a contract version: a number, or text like `"1"` or `"v1"` of older callers.
#[must_use]
pub fn contract_version(value: Option<&Value>) -> Option<u32> {
    let version = match value? {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok()?,
        Value::String(text) => text.strip_prefix('v').unwrap_or(text).parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    CONTRACT_VERSIONS.contains(&version).then_some(version)
}

/// What `accept` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AcceptAnswer {
    /// The caller's id at the site that it called.
    pub peer_id: PeerId,
    /// Where it stands there.
    pub status: Status,
    /// Always `platform`.
    pub peer_kind: String,
    /// The version that both keep.
    pub contract_version_agreed: u32,
    /// When.
    pub accepted_at: Moment,
    /// When certificates were exchanged, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_at: Option<Moment>,
    /// What the caller needs to be known, and to know us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_exchange: Option<TrustExchange>,
    /// What we signed for the caller, where it asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federation_certificate: Option<Signed>,
    /// What a node of a managed child asks for its certificate with: told once, and kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_enrollment: Option<NodeEnrollment>,
    /// The cluster that the caller joins, where that is agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Value>,
    /// What became of the overlay.
    pub sdwan_attach: Value,
    /// What the scan of the new peer found.
    pub governance: Value,
    /// What didn't work, and stops nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Certificates of two sovereign sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TrustExchange {
    /// Our root.
    pub ca_bundle_pem: String,
    /// The name that the caller's certificates must carry from now on.
    pub assigned_inbound_subject: String,
}

/// What a node of a managed child asks for its certificate with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeEnrollment {
    /// Good once, for `renew`.
    pub bootstrap_token: String,
    /// Where; none where we can't be dialled.
    pub platform_url: Option<String>,
    /// The name that the certificate will carry.
    pub intended_subject: String,
    /// Until when.
    pub expires_at: Moment,
}

impl std::fmt::Debug for NodeEnrollment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        write!(f, "NodeEnrollment({})", self.intended_subject)
    }
}

/// `POST renew`: a child asks for another certificate, or its node for the first one.
#[derive(Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct RenewRequest {
    /// The request (PKCS #10, PEM), whose URI names the caller's gateway.
    pub csr_pem: Option<String>,
    /// For the first one: without a certificate that is known, this is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_token: Option<String>,
    /// For the first one: the name that our certificate shall carry when we call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_inbound_subject: Option<String>,
}

impl std::fmt::Debug for RenewRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("RenewRequest")
            .field("csr_pem", &self.csr_pem)
            .finish_non_exhaustive()
    }
}

/// What `renew` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RenewAnswer {
    /// The caller's id here.
    pub peer_id: PeerId,
    /// Where it stands.
    pub status: Status,
    /// What we signed.
    pub federation_certificate: Signed,
}

/// What goes with a beat and its answer about anchors: so they move on where only one side can dial, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TrustNews {
    /// How often the anchors of who says it have changed.
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub trust_sequence: Option<u64>,
    /// Which of the other's it knows.
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub known_trust_sequence: Option<u64>,
    /// All of its anchors, PEM: only to who lacks some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle_pem: Option<String>,
}

/// `POST heartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct HeartbeatRequest {
    /// Comes back as it is: the answer is to this beat.
    pub nonce: Option<String>,
    /// Which beat this is, of the caller's ledger: its number since the ledger was opened, and in the bits above 32 how
    /// often that was. It rises over restarts, whatever the clock says.
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub sequence: Option<u64>,
    /// How often the caller's ledger was restored from a backup.
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub ledger_epoch: Option<u64>,
    /// Where its audit ends.
    pub audit_head: Option<String>,
    /// What it says of its anchors.
    #[serde(flatten)]
    pub trust: TrustNews,
    /// Where our own audit ended when the caller last saw it: `<epoch>/<records>:<hash>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<String>,
    /// Where one of the two has spawned the other, what that one is: `managed_child`, or `autonomous_peer` once it is on its
    /// own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn_mode: Option<String>,
    /// The bridges that the caller has with us: absent is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridges: Option<Vec<BridgeMark>>,
    /// What it says of itself.
    #[serde(flatten)]
    pub said: Said,
}

/// What `heartbeat` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HeartbeatAnswer {
    /// Where the caller stands here.
    pub status: Status,
    /// When it was last heard of: now.
    pub last_heartbeat_at: Moment,
    /// Where we are reached.
    pub our_endpoints: Vec<Endpoint>,
    /// Whether our versions get along.
    pub schema_compatibility: super::version::Compatibility,
    /// As it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// As it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// How often our ledger was restored.
    pub ledger_epoch: u64,
    /// Where our audit ends.
    pub audit_head: String,
    /// Where the caller's audit ended when we last saw it: `<epoch>/<records>:<hash>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<String>,
    /// The cluster that the caller joins, where that is agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Value>,
    /// As in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawn_mode: Option<String>,
    /// The bridges that we have with the caller: absent is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridges: Option<Vec<BridgeMark>>,
    /// What we say of our anchors.
    #[serde(flatten)]
    pub trust: TrustNews,
    /// What we say of ourselves, as in the request: so one beat does for both.
    #[serde(flatten)]
    pub said: Said,
}

/// A service that the caller uses: `POST subscriptions`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubscriptionRequest {
    /// The `id` that the catalog has for the offer.
    pub service: Name,
}

/// A service that the caller has said that it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubscriptionEntry {
    /// The `id` that the catalog has for the offer.
    pub service: Name,
    /// Since when.
    pub subscribed_at: Moment,
}

/// A bridge that who says it has: with whom it can be dialled, who lacks this makes the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BridgeMark {
    /// Which.
    pub id: BridgeId,
    /// The number of its half.
    #[serde(deserialize_with = "number::integer")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub sequence: u64,
}

/// `DELETE bridges/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BridgeEnd {
    /// Later than that of the half which is taken back.
    #[serde(deserialize_with = "number::integer")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub sequence: u64,
}

/// What `PUT` and `DELETE bridges/{id}` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BridgeAnswer {
    /// As it was asked.
    pub id: BridgeId,
    /// `proposed`, `active`, `suspended` or `revoked`; `offered` where the fleet of who answers has no such bridge.
    pub state: String,
    /// The half of who answers; none where it has none.
    pub half: Option<Half>,
}

/// What `trust_bundle` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TrustBundle {
    /// Our roots.
    pub ca_bundle_pem: String,
    /// When this was written.
    pub generated_at: Moment,
    /// How often they have changed.
    pub sequence: u64,
    /// How many seconds may pass before it is asked for again (SPIFFE trust domain and bundle, section 4.1.2).
    pub refresh_hint: u64,
}

/// `POST notices`: what the caller's operator has done to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NoticeRequest {
    /// What.
    pub notice: Notice,
}

/// What an operator can have done to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Ended it.
    Revoked,
    /// Stopped it for the time being.
    Suspended,
    /// Let it go on.
    Resumed,
    /// Restored the ledger from a backup: it waits to be resumed.
    Restored,
}

impl Notice {
    /// Why the caller is degraded here, if it is.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Revoked => Some("revoked_by_peer"),
            Self::Suspended => Some("suspended_by_peer"),
            Self::Restored => Some("restored_by_peer"),
            Self::Resumed => None,
        }
    }

    /// Whether a reason came from a notice. It says more than the silence or the refusals that follow.
    #[must_use]
    pub fn is_reason(reason: Option<&str>) -> bool {
        let told = [Self::Revoked, Self::Suspended, Self::Restored].map(Self::reason);
        reason.is_some() && told.contains(&reason)
    }
}

/// What `resources/{kind}` and `resources/{kind}/{id}` answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResourceAnswer {
    /// As it was asked.
    pub kind: String,
    /// As it was asked; none is all.
    #[serde(default)]
    pub id: Option<String>,
    /// Whether there is any.
    pub exists: bool,
    /// Whose it is.
    pub account_id: SiteId,
    /// The grant that allowed it.
    pub grant_id: GrantId,
    /// When this was looked up.
    pub fetched_at: Moment,
    /// What is told of each.
    pub resources: Vec<Value>,
    /// Where to go on with `?after=`, if there are more than one answer carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The envelope of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Envelope<T> {
    /// Whether it was done.
    #[serde(default = "yes")]
    pub success: bool,
    /// What came of it.
    pub data: T,
}

const fn yes() -> bool {
    true
}

/// The envelope of refusals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// Always false.
    pub success: bool,
    /// In words.
    pub error: String,
    /// As a word.
    pub code: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contract_versions_as_callers_write_them() {
        for (value, version) in [
            (json!(1), Some(1)),
            (json!("1"), Some(1)),
            (json!("v1"), Some(1)),
            (json!(99), None),
            (json!(1.5), None),
            (json!(-1), None),
            (json!(null), None),
            (json!([1]), None),
        ] {
            assert_eq!(contract_version(Some(&value)), version, "{value}");
        }
        assert_eq!(contract_version(None), None);
    }

    #[test]
    fn absent_is_unchanged_and_unknown_is_ignored() {
        let mut declared = Declared {
            platform_version: Some("1.2".to_owned()),
            data_residency: Some("JP".to_owned()),
            ..Declared::default()
        };
        let said: Said =
            serde_json::from_value(json!({ "platform_version": "1.3", "colour": "red" })).unwrap();
        assert!(said.update(&mut declared));
        assert_eq!(
            (
                declared.platform_version.as_deref(),
                declared.data_residency.as_deref()
            ),
            (Some("1.3"), Some("JP"))
        );
        assert!(!Said::default().update(&mut declared));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let said = |value| serde_json::from_value::<Said>(value).unwrap().check();
        assert_eq!(said(json!({ "data_residency": "x".repeat(64) })), Ok(()));
        for value in [
            json!({ "data_residency": "x".repeat(65) }),
            json!({ "platform_version": "x".repeat(65) }),
            json!({ "extension_slugs": vec!["x"; 257] }),
            json!({ "extension_slugs": ["x".repeat(65)] }),
            json!({ "endpoints": vec![json!({ "url": "https://x" }); 9] }),
            json!({ "endpoints": [{ "url": "x".repeat(2_049) }] }),
            json!({ "endpoints": [{ "url": "https://x", "scope": "x".repeat(65) }] }),
        ] {
            assert!(said(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_token_never_prints() {
        let request = AcceptRequest {
            acceptance_token: Some("sdw1.secret".to_owned()),
            ..AcceptRequest::default()
        };
        let renewal = RenewRequest {
            bootstrap_token: Some("sdwn1.secret".to_owned()),
            ..RenewRequest::default()
        };
        let enrollment = NodeEnrollment {
            bootstrap_token: "sdwn1.secret".to_owned(),
            platform_url: None,
            intended_subject: "fed:b".to_owned(),
            expires_at: Moment::EPOCH,
        };
        assert!(!format!("{request:?} {renewal:?} {enrollment:?}").contains("secret"));
    }
}
