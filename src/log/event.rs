//! What happens to a daemon, in one place. An id, once given, keeps its meaning; `tests/data/events/catalogue.txt` holds them.

use std::fmt;

use serde::Serialize;
use tracing::Level;

/// Whether someone should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nobody needs to.
    Info,
    /// Someone should look.
    Warning,
    /// Someone must act.
    Error,
}

impl Severity {
    pub(super) const fn level(self) -> Level {
        match self {
            Self::Info => Level::INFO,
            Self::Warning => Level::WARN,
            Self::Error => Level::ERROR,
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO | Level::DEBUG | Level::TRACE => Self::Info,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A field of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name, as it stands in a line.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

/// An event, as it stands in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// What it is known by.
    pub id: &'static str,
    /// Which of the two daemons say it: `run`, `serve`.
    pub commands: &'static [&'static str],
    /// Whether someone should look.
    pub severity: Severity,
    /// Its sentence.
    pub message: &'static str,
    /// What to do.
    pub advice: &'static str,
    /// What it says besides. Those that may be absent say so.
    pub fields: &'static [Field],
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}; {})", self.id, self.severity, self.commands.join(", "))?;
        writeln!(f, "  {}", self.message)?;
        for field in self.fields {
            writeln!(f, "    {}: {}", field.name, field.meaning)?;
        }
        writeln!(f, "  To do: {}", self.advice)
    }
}

const RUN: &[&str] = &["run"];
const SERVE: &[&str] = &["serve"];
const RUN_AND_SERVE: &[&str] = &["run", "serve"];

/// Nobody needs to do anything.
const NOTHING: &str = "nothing.";

macro_rules! catalogue {
    ($($commands:ident: {
        $($id:literal $severity:ident $name:ident $({ $($field:ident: $type:ty = $meaning:literal),* $(,)? })?
            $message:literal
            $advice:expr;)*
    })*) => {
        /// What happens to a daemon that an operator acts on, or looks for later.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(
                #[doc = concat!("`", $id, "`: ", $message, ".")]
                $name $({ $(#[doc = concat!($meaning, ".")] $field: $type),* })?,
            )*)*
        }

        impl Event {
            /// What it is known by.
            #[must_use]
            pub const fn id(&self) -> &'static str {
                match self {
                    $($(Self::$name { .. } => $id,)*)*
                }
            }

            /// Says it.
            pub fn emit(&self) {
                match self {
                    $($(Self::$name $({ $($field),* })? => tracing::event!(
                        target: "sdwand",
                        Severity::$severity.level(),
                        event = $id,
                        $($($field = $field,)*)?
                        $message
                    ),)*)*
                }
            }
        }

        /// All of them.
        pub const EVENTS: &[Kind] = &[$($(Kind {
            id: $id,
            commands: $commands,
            severity: Severity::$severity,
            message: $message,
            advice: $advice,
            fields: &[$($(Field { name: stringify!($field), meaning: $meaning }),*)?],
        },)*)*];
    };
}

catalogue! {
    RUN: {
        "daemon.started" Info Started { node: String = "this host", version: String = "the program's" }
            "started"
            NOTHING;
        "daemon.stopped" Info Stopped
            "stopped; the data plane stays as it is"
            "start it again: until then nothing heals drift.";
        "daemon.down" Warning Down
            "taken down by an operator; `sdwand apply` or a restart brings it back"
            "`sdwand apply`, once the overlay shall be there again.";
        "config.in_force" Info ConfigInForce { digest: String = "the fleet's" }
            "a configuration is in force"
            NOTHING;
        "config.pending" Info ConfigPending { digest: String = "the fleet's" }
            "a changed configuration waits for `sdwand apply`"
            "`sdwand plan`, then `sdwand apply`.";
        "config.bad" Error ConfigBad { count: u64 = "how many errors there are", first: String = "the first of them" }
            "the configuration is bad: the last good one stays in force; see `sdwand check`"
            "`sdwand check` names each error, with file and line; what is corrected is picked up by itself.";
        "config.good_again" Info ConfigGoodAgain
            "the configuration is good again"
            NOTHING;
        "config.not_for_this_host" Error ConfigNotForThisHost { error: String = "why" }
            "the fleet can't be compiled for this host"
            "correct what the error names; nothing of the fleet is made true until then.";
        "config.at_next_start" Warning ConfigAtNextStart
            "state_dir and run_dir take effect at the next start"
            "`systemctl restart sdwand`, when it suits.";
        "config.not_kept" Warning ConfigNotKept { folder: String = "where it is kept", error: String = "why" }
            "can't keep a copy of the applied fleet"
            "make room in the folder, and let it be written: a restart with a bad configuration goes on from that copy.";
        "plan.applied" Info PlanApplied { changes: u64 = "how many were made", left: u64 = "how many are left to do" }
            "the host was changed"
            NOTHING;
        "plan.step_failed" Warning StepFailed {
            plane: String = "whose step", phase: String = "when", step: String = "what was tried", error: String = "what the host said",
        }
            "a step failed; it is tried again"
            "see the error; `sdwand status` says how it stands. The host is no more open meanwhile.";
        "drift.healed" Warning DriftHealed { plane: String = "what had been changed" }
            "something else had changed what is ours, and it was put right"
            "find out who does that, if it goes on: a firewall manager, networkd, a script.";
        "plane.converged" Info PlaneConverged {
            plane: String = "which", network: Option<String> = "whose; absent for the whole host",
        }
            "converged"
            NOTHING;
        "plane.drifted" Warning PlaneDrifted {
            plane: String = "which", network: Option<String> = "whose; absent for the whole host", reason: String = "how",
        }
            "drifted"
            "nothing, if it converges with the next rounds; else `sdwand plan` says what is left to do.";
        "plane.blocked" Warning PlaneBlocked {
            plane: String = "which", network: Option<String> = "whose; absent for the whole host", reason: String = "by what, and the fix",
        }
            "blocked"
            "do what the reason says: it is tried again by itself.";
        "plane.failed" Warning PlaneFailed {
            plane: String = "which", network: Option<String> = "whose; absent for the whole host", reason: String = "the step, and what the host said",
        }
            "failed"
            "see the reason, and `sdwand doctor`; it is tried again by itself.";
        "uplink.moved" Warning UplinkMoved { network: Option<String> = "whose; absent if it has gone", reason: String = "which hub, and why" }
            "routes move to another hub"
            "look after the hub that is silent.";
        "uplink.not_asked" Warning UplinkNotAsked
            "hubs are judged by their last handshake alone, which takes up to 180 s: asking them needs CAP_NET_RAW"
            "give the daemon CAP_NET_RAW, as sdwand.service does.";
        "path.black_hole" Warning PathBlackHole {
            network: String = "whose", peer: String = "to whom", endpoint: String = "where it is called",
            size: u64 = "the bytes of packets that vanish", passes: u64 = "the bytes of the largest that arrive",
        }
            "packets of full size vanish on the way to a peer"
            "`sdwand doctor` says which mtu would pass; better, let ICMP \"packet too big\" pass on the underlay.";
        "path.whole" Info PathWhole { network: String = "whose", peer: String = "to whom" }
            "packets of full size arrive again"
            NOTHING;
        "path.not_asked" Warning PathNotAsked
            "ways that swallow large packets aren't looked for: that needs CAP_NET_RAW"
            "give the daemon CAP_NET_RAW, as sdwand.service does.";
        "key.turned" Info KeyTurned { change: String = "what moved to the peer's next key" }
            "a peer uses its next key"
            NOTHING;
        "key.turn_failed" Warning KeyTurnFailed { change: String = "what was to move", error: String = "what the host said" }
            "a peer uses its next key; tried again"
            "see the error, if it goes on: what the peer sends is dropped meanwhile.";
        "watch.lost" Warning WatchLost { what: String = "what is no longer heard of", error: Option<String> = "why, if it is known" }
            "events are lost: changes are seen at the next round"
            "`systemctl restart sdwand`: until then drift is healed at each `reconcile.interval_seconds`.";
    }
    RUN_AND_SERVE: {
        "metrics.served" Info MetricsServed { listen: String = "where" }
            "metrics are served"
            NOTHING;
        "metrics.not_served" Error MetricsNotServed { listen: String = "where", error: String = "why" }
            "metrics can't be served: free the address, or change `[metrics]`"
            "free the address, or change `[metrics]`; it is tried again.";
    }
    SERVE: {
        "gateway.started" Info GatewayStarted {
            site: String = "whose", listen: String = "where peers come in", ca: String = "the fingerprint of the CA that signs",
        }
            "serving"
            NOTHING;
        "gateway.stopped" Info GatewayStopped
            "stopped"
            "start it again: peers degrade this site when it is silent.";
        "gateway.clock_unset" Error ClockUnset { wall: String = "what the clock says" }
            "the wall clock isn't set: federation waits until it is; the data plane doesn't"
            "set the clock: NTP, or `date -s`.";
        "gateway.clock_set" Info ClockSet { wall: String = "what the clock says" }
            "the wall clock is set"
            NOTHING;
        "gateway.clock_behind" Error ClockBehind { ledger: String = "the ledger's time", wall: String = "what the clock says" }
            "the ledger's time is ahead of this host's clock"
            "where the clock is right, stop the gateway and put the ledger's time back: `sdwand ledger reset-clock`.";
        "gateway.operators_served" Info OperatorsServed { listen: String = "where", https: bool = "whether it is encrypted" }
            "operators are served"
            NOTHING;
        "fleet.told" Info FleetTold { digest: String = "the fleet's" }
            "peers are told of a new fleet"
            NOTHING;
        "fleet.bad" Error FleetBad { count: u64 = "how many errors there are", first: String = "the first of them" }
            "the fleet is bad: peers are told of the one before"
            "`sdwand check` names each error, with file and line; what is corrected is picked up by itself.";
        "fleet.of_another_site" Error FleetOfAnotherSite
            "[site] has another name or prefix: start `sdwand serve` again, and federate anew"
            "put the name and the prefix back, or start `sdwand serve` again, and federate anew.";
        "certificate.renewed" Info CertificateRenewed { not_after: String = "when the new one ends" }
            "our certificate was renewed"
            NOTHING;
        "certificate.not_renewed" Error CertificateNotRenewed { not_after: String = "when the one that is shown ends", error: String = "why" }
            "our certificate can't be renewed"
            "see the error, before it ends: then no peer takes our word. It is tried again.";
        "payload.not_read" Error PayloadNotRead { path: String = "the file", error: String = "why" }
            "what a parent left can't be read, or makes no sense"
            "let the gateway's user read it, or have the parent make another; then start the gateway again.";
        "payload.exposed" Warning PayloadExposed { path: String = "the file" }
            "every user of this host can read the token in what a parent left"
            "`chmod o= FILE`.";
        "parent.took_us_up" Info ParentTookUsUp { parent: String = "its URL", path: String = "the payload's file" }
            "the parent has taken us up; the payload may be removed"
            NOTHING;
        "parent.stays_revoked" Warning ParentStaysRevoked {
            parent: String = "its URL", peer: String = "the parent's id here", path: String = "the payload's file",
        }
            "an operator has revoked this parent before its token was taken: it stays revoked"
            "remove the payload, or have the parent make another to be its child after all.";
        "parent.refused" Error ParentRefused { parent: String = "its URL", error: String = "why" }
            "the parent doesn't take us up"
            "the payload is used, expired or another site's: have the parent make another.";
        "parent.not_reached" Warning ParentNotReached {
            parent: String = "its URL", error: String = "why", again_s: u64 = "in how many seconds it is tried again",
        }
            "the parent wasn't reached"
            "see the error: routes, names, the parent's gateway. It is tried again.";
        "parent.signed" Info ParentSigned { peer: String = "the parent's id here", alias: String = "its name here" }
            "the parent has signed anew"
            NOTHING;
        "parent.not_signed" Error ParentNotSigned {
            peer: String = "the parent's id here", alias: String = "its name here", error: String = "why",
        }
            "the parent hasn't signed anew"
            "see the error; `sdwand governance` says how long is left. It is tried again.";
        "ledger.put_back" Error LedgerPutBack { why: String = "how that is known" }
            "the ledger was put back: every peer waits for `sdwand peer resume`"
            "look at each peer, then `sdwand peer resume`; grants and tokens are void.";
        "agreements.not_written" Error AgreementsNotWritten { path: String = "the file", error: String = "why" }
            "what is agreed with other sites can't be handed to `sdwand run`"
            "make room, and let the folder be written: `run` goes by what it has, at most for [federation] grace_hours.";
        "overlay.listening" Info OverlayListening { network: String = "in which", address: String = "where" }
            "peers' gateways are listened to inside a network"
            NOTHING;
        "overlay.not_listening" Warning OverlayNotListening {
            network: String = "in which", address: String = "where", error: String = "why",
        }
            "peers' gateways can't be listened to inside a network"
            "see the error: `sdwand run` gives this host that address. Grants that name the network match nobody meanwhile; it is tried again.";
        "ledger.not_written" Error LedgerNotWritten { what: String = "what wasn't", error: String = "why" }
            "the ledger can't be written"
            "make room, and let the state folder be written: peers stay as they are until then.";
    }
}
