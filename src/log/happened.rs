//! What happens between sites, told with the id that it has in the audit.

use super::{Field, Kind, Severity};

const FIELDS: &[Field] = &[
    Field {
        name: "peer",
        meaning: "its id here; absent where it concerns none",
    },
    Field {
        name: "alias",
        meaning: "its name here",
    },
    Field {
        name: "grant",
        meaning: "the grant's id, where it is about one",
    },
    Field {
        name: "bridge",
        meaning: "the bridge's name, where it is about one",
    },
    Field {
        name: "approval",
        meaning: "the approval's id, where it is about one",
    },
    Field {
        name: "reason",
        meaning: "why, where that was said",
    },
    Field {
        name: "by",
        meaning: "the operator who did it, where one did",
    },
];

const NOTHING: &str = "nothing.";

const fn kind(id: &'static str, severity: Severity, message: &'static str, advice: &'static str) -> Kind {
    Kind {
        id,
        commands: &["serve"],
        severity,
        message,
        advice,
        fields: FIELDS,
    }
}

use Severity::{Error, Info, Warning};

/// All of them. What the audit has besides, like who was refused, is no event: it is too much, or says too little.
pub const HAPPENINGS: &[Kind] = &[
    kind(
        "federation.peer.proposed",
        Info,
        "a peering was proposed",
        "give the token to the other site's operator.",
    ),
    kind(
        "federation.peer.accepted",
        Info,
        "a peer is accepted, and isn't enrolled yet",
        "nothing, unless it stays so: then the peer can't be reached.",
    ),
    kind("federation.peer.enrolled", Info, "a peer is enrolled", NOTHING),
    kind("federation.peer.active", Info, "a peer is active", NOTHING),
    kind(
        "federation.peer.degraded",
        Warning,
        "a peer is degraded",
        "see the reason; ask the peer's operator. It is active again with its next heartbeat.",
    ),
    kind(
        "federation.peer.suspended",
        Warning,
        "a peer is suspended",
        "`sdwand peer resume`, when it shall be a peer again.",
    ),
    kind(
        "federation.peer.revoked",
        Warning,
        "a peer is revoked",
        "nothing brings it back: `sdwand peer propose` for another peering.",
    ),
    kind(
        "federation.peer.heartbeat_stale",
        Info,
        "a peer is silent",
        "nothing: it is asked, and degraded if it doesn't answer.",
    ),
    kind(
        "federation.peer.rehandshaked",
        Info,
        "a silent peer answers: its heartbeats are waited for",
        NOTHING,
    ),
    kind(
        "federation.peer.notice",
        Info,
        "a peer has told that it ends or stops the peering",
        "ask its operator.",
    ),
    kind(
        "federation.peer.anchor_changed",
        Warning,
        "a peer has other trust anchors",
        "compare them with its operator, unless its CA was to change: `sdwand peer show`.",
    ),
    kind(
        "federation.peer.ledger_regressed",
        Error,
        "the peer's ledger has gone back, and it doesn't say so: a copy was put back there",
        "ask its operator; `sdwand peer resume` once it is explained.",
    ),
    kind(
        "federation.peer.restored",
        Warning,
        "a peer says that its ledger was put back",
        "ask its operator, if you didn't know.",
    ),
    kind(
        "federation.peer.token_rotated",
        Info,
        "a peer's token was drawn anew",
        "give it to the other site's operator; the former one is void.",
    ),
    kind("federation.peer.moved", Info, "a peer has another URL", NOTHING),
    kind(
        "federation.peer.data_residency_changed",
        Warning,
        "a peer's data resides elsewhere",
        "`sdwand governance` says whether your rules allow it.",
    ),
    kind(
        "federation.peer.certificate_issued",
        Info,
        "a child's certificate was signed",
        NOTHING,
    ),
    kind(
        "federation.peer.emancipated",
        Info,
        "a child is sovereign from now on",
        NOTHING,
    ),
    kind(
        "federation.peer.cluster_changed",
        Info,
        "a parent names another cluster",
        NOTHING,
    ),
    kind(
        "federation.bridge.proposed",
        Info,
        "a bridge waits for its peer",
        "nothing, unless it stays so: `sdwand peer show` says what it waits for.",
    ),
    kind("federation.bridge.active", Info, "a bridge is agreed", NOTHING),
    kind(
        "federation.bridge.changed",
        Info,
        "what is said of a bridge is other than before",
        NOTHING,
    ),
    kind(
        "federation.bridge.suspended",
        Warning,
        "a bridge carries nothing for the time being",
        "see the reason.",
    ),
    kind(
        "federation.bridge.revoked",
        Warning,
        "a bridge is over",
        "see the reason; what the fleet still wants is proposed anew.",
    ),
    kind(
        "federation.subscription.subscribed",
        Info,
        "a peer uses a service that is offered to it",
        NOTHING,
    ),
    kind(
        "federation.subscription.unsubscribed",
        Info,
        "a peer no longer uses a service that is offered to it",
        NOTHING,
    ),
    kind(
        "federation.subscription.withdrawn",
        Info,
        "a subscription ended with its offer, its grant or its peer",
        NOTHING,
    ),
    kind("federation.grant.created", Info, "a grant was given", NOTHING),
    kind("federation.grant.revoked", Info, "a grant was revoked", NOTHING),
    kind(
        "federation.approval.requested",
        Warning,
        "a request waits for a second operator",
        "`sdwand approvals show`, then `approve` or `deny`.",
    ),
    kind(
        "federation.approval.approved",
        Info,
        "a request was approved: it is performed now",
        NOTHING,
    ),
    kind(
        "federation.approval.denied",
        Info,
        "a request was denied",
        NOTHING,
    ),
    kind(
        "federation.approval.expired",
        Info,
        "nobody approved a request in time",
        "ask again, if it is still wanted.",
    ),
    kind(
        "federation.approval.failed",
        Warning,
        "an approved request failed",
        "see the reason; ask again once it is mended.",
    ),
    kind(
        "federation.approval.voided",
        Warning,
        "a request that waited can't be performed any more",
        "ask again, if it is still wanted.",
    ),
    kind(
        "federation.paused",
        Warning,
        "nothing new is begun with other sites from now on",
        "`sdwand federation resume`, when it shall go on.",
    ),
    kind(
        "federation.resumed",
        Info,
        "new peerings are taken again",
        NOTHING,
    ),
    kind(
        "federation.operator_token.issued",
        Info,
        "an operator's token was issued",
        "`sdwand token revoke`, if you don't know why.",
    ),
    kind(
        "federation.operator_token.revoked",
        Info,
        "an operator's token was revoked",
        NOTHING,
    ),
    kind(
        "federation.pki.rotation_began",
        Warning,
        "another CA was drawn: peers are told of it, and it signs once all know it",
        "nothing, if you asked for it: `sdwand pki show` says who doesn't know it yet.",
    ),
    kind(
        "federation.pki.rotated",
        Warning,
        "the next CA signs from now on",
        "keep a copy of `ca.pem` and `ca.key`.",
    ),
    kind(
        "federation.pki.rotation_abandoned",
        Warning,
        "the next CA was given up: the present one signs on",
        "`sdwand pki rotate-ca`, if it shall change all the same.",
    ),
];

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub kind: &'static Kind,
    /// The peer's id here; none where it concerns none.
    pub peer: Option<String>,
    /// The peer's name here.
    pub alias: Option<String>,
    /// The grant's id, where it is about one.
    pub grant: Option<String>,
    /// The bridge's name, where it is about one.
    pub bridge: Option<String>,
    /// The approval's id, where it is about one.
    pub approval: Option<String>,
    /// Why, where that was said.
    pub reason: Option<String>,
    /// The operator who did it, where one did.
    pub by: Option<String>,
}

impl Happened {
    /// The event with this id, if there is one, about nobody yet.
    #[must_use]
    pub fn new(id: &str) -> Option<Self> {
        let kind = HAPPENINGS.iter().find(|kind| kind.id == id)?;
        Some(Self {
            kind,
            peer: None,
            alias: None,
            grant: None,
            bridge: None,
            approval: None,
            reason: None,
            by: None,
        })
    }

    /// Says it.
    pub fn emit(&self) {
        macro_rules! emit {
            ($severity:ident) => {
                tracing::event!(
                    target: "sdwand",
                    Severity::$severity.level(),
                    event = self.kind.id,
                    peer = self.peer,
                    alias = self.alias,
                    grant = self.grant,
                    bridge = self.bridge,
                    approval = self.approval,
                    reason = self.reason,
                    by = self.by,
                    "{}",
                    self.kind.message
                )
            };
        }
        match self.kind.severity {
            Info => emit!(Info),
            Warning => emit!(Warning),
            Error => emit!(Error),
        }
    }
}
