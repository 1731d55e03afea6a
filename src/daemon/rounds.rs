//! What the daemon's one task does: load, converge, answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::applied::{self, Start};
use super::events;
use super::metrics::{self, Exporter};
use crate::api::control::{Answer, Request};
use crate::config::{self, Diagnostics};
use crate::host::{Followed, RealHost, system_now, unix_now};
use crate::log::{Event, Recent, lap};
use crate::model::host::{HostConfig, Mode};
use crate::model::{Fleet, LinkName, NetworkId};
use crate::reconcile::{
    self, Condition, ConditionState, Conditions, Execution, Host as _, Observation, Plan, Round, Target,
};
use crate::report::metrics::View;
use crate::report::status::{ConfigState, DaemonState, Status};

/// The first wait after a failure; it doubles up to the interval.
const RETRY: Duration = Duration::from_secs(1);

/// The daemon's state.
pub(super) struct Rounds {
    config: PathBuf,
    own: HostConfig,
    pub(super) host: RealHost,
    current: Option<Target>,
    /// Where bridges depend on more than the files, what `current` is compiled from.
    bridged: Option<(Fleet, Vec<config::Notice>)>,
    pending: Option<config::Loaded>,
    errors: Option<(Diagnostics, u64)>,
    is_down: bool,
    conditions: Conditions,
    retries: u32,
    is_clean: bool,
    /// The uplinks that routes are about to move to.
    moves: BTreeMap<NetworkId, LinkName>,
    /// The interfaces that the session of the last apply came through: what that apply kept away from, later rounds
    /// keep away from too.
    protected: BTreeSet<LinkName>,
    exporter: Exporter,
    /// What happened lately.
    recent: Recent,
    /// Whether the last round left nothing to do, and nothing else is wanted since: what differs now was changed by others.
    is_settled: bool,
    /// Whether the host was looked at since the start.
    has_looked: bool,
}

impl Rounds {
    pub(super) fn new(config: &Path, start: Start, mut host: RealHost, recent: Recent) -> Self {
        host.set_key(start.key);
        let notices = start.notices;
        let bridged = start
            .fleet
            .as_ref()
            .and_then(|fleet| bridged(&host, &start.host, fleet, &notices));
        let current = start.fleet.and_then(|fleet| target(&host, &start.host, &fleet));
        let former = start.former.and_then(|fleet| target(&host, &start.host, &fleet));
        let current = current.map(|current| follows(current, former.as_ref()));
        let current = current.map(|current| RealHost::noted(current, &notices));
        Self {
            config: config.to_owned(),
            own: start.host,
            host,
            current,
            bridged,
            pending: start.pending,
            errors: start.errors.map(|errors| (errors, unix_now())),
            is_down: false,
            conditions: Conditions::new(),
            retries: 0,
            is_clean: false,
            moves: BTreeMap::new(),
            protected: BTreeSet::new(),
            exporter: Exporter::new(),
            recent,
            is_settled: false,
            has_looked: false,
        }
    }

    /// Says what the daemon starts with.
    pub(super) fn announce(&self) {
        let (node, version) = (self.own.node.to_string(), env!("CARGO_PKG_VERSION").to_owned());
        Event::Started { node, version }.emit();
        if let Some((errors, _)) = &self.errors {
            events::of_bad_config(errors);
        }
        if let Some(current) = &self.current {
            let digest = current.intent.fleet_digest.to_string();
            Event::ConfigInForce { digest }.emit();
        }
        if let Some(pending) = &self.pending {
            let digest = pending.fleet.digest.to_string();
            Event::ConfigPending { digest }.emit();
        }
    }

    pub(super) const fn own(&self) -> &HostConfig {
        &self.own
    }

    pub(super) fn fleet_dir(&self) -> &Path {
        &self.own.fleet_dir
    }

    pub(super) fn key_file(&self) -> &Path {
        &self.own.private_key_file
    }

    pub(super) const fn debounce(&self) -> Duration {
        self.own.reconcile.debounce
    }

    /// How things are, in a line for `systemctl status`.
    pub(super) fn summary(&self) -> String {
        let config = if self.errors.is_some() {
            "; the configuration is bad, the last good one is in force: see `sdwand check`"
        } else if self.pending.is_some() {
            "; a changed configuration waits for `sdwand apply`"
        } else {
            ""
        };
        let how = if self.is_down {
            "taken down by an operator".to_owned()
        } else {
            summary(&self.conditions)
        };
        format!("{how}{config}")
    }

    /// How long until the next round, if nothing happens.
    pub(super) fn next_round(&self) -> Duration {
        if self.is_clean {
            let interval = self.own.reconcile.interval;
            return self.host.due().map_or(interval, |due| due.min(interval));
        }
        let backoff = RETRY * 2_u32.saturating_pow(self.retries.saturating_sub(1).min(16));
        backoff.min(self.own.reconcile.interval)
    }

    /// Reads the files again. A bad configuration changes nothing but what the status says.
    pub(super) fn reload(&mut self) {
        let reading = lap("reading the files");
        let loaded = config::load(&self.config);
        drop(reading);
        match loaded {
            Ok(loaded) => {
                if self.errors.take().is_some() {
                    Event::ConfigGoodAgain.emit();
                }
                if self.in_force(&loaded) {
                    self.pending = None;
                } else if loaded.host.reconcile.mode == Mode::Auto {
                    self.adopt(loaded);
                } else {
                    let digest = loaded.fleet.digest.to_string();
                    Event::ConfigPending { digest }.emit();
                    self.pending = Some(loaded);
                }
            }
            Err(errors) => {
                // Every command reads again: what was said once is said.
                if self.errors.as_ref().is_none_or(|(known, _)| *known != errors) {
                    events::of_bad_config(&errors);
                }
                let since = self.errors.as_ref().map_or_else(unix_now, |(_, since)| *since);
                self.errors = Some((errors, since));
            }
        }
    }

    fn in_force(&self, loaded: &config::Loaded) -> bool {
        let same = |target: &Target| target.intent.fleet_digest == loaded.fleet.digest;
        self.current.as_ref().is_some_and(same)
            && self.own == loaded.host
            && self.host.public_key() == Some(loaded.private_key.public())
    }

    fn adopt(&mut self, loaded: config::Loaded) {
        let moved = self.own.state_dir != loaded.host.state_dir || self.own.run_dir != loaded.host.run_dir;
        if moved {
            Event::ConfigAtNextStart.emit();
        }
        applied::save(&self.own.state_dir, &loaded.fragments);
        self.own = HostConfig {
            state_dir: self.own.state_dir.clone(),
            run_dir: self.own.run_dir.clone(),
            ..loaded.host
        };
        self.host.set_key(loaded.private_key);
        // Whether this host is a gateway, and how long agreements are believed, is in there, too.
        self.host.refresh_agreements(&self.own);
        let former = self.current.take();
        let current = target(&self.host, &self.own, &loaded.fleet);
        let current = current.map(|current| follows(current, former.as_ref()));
        self.current = current.map(|current| RealHost::noted(current, &loaded.notices));
        self.bridged = bridged(&self.host, &self.own, &loaded.fleet, &loaded.notices);
        self.pending = None;
        self.is_settled = false;
        let digest = loaded.fleet.digest.to_string();
        Event::ConfigInForce { digest }.emit();
    }

    /// Takes over what else bridges depend on, beside the files: what other sites have agreed to since, and the networks that
    /// this host is in.
    async fn follow_bridges(&mut self) {
        let mut is_new = self.host.refresh_agreements(&self.own);
        let pending = self.pending.as_ref().map(|loaded| &loaded.fleet);
        let bridged = self.bridged.as_ref().map(|(fleet, _)| fleet);
        for fleet in bridged.into_iter().chain(pending) {
            is_new |= self.host.look_at_underlay(fleet).await;
        }
        let Some((fleet, notices)) = self.bridged.as_ref().filter(|_| is_new) else {
            return;
        };
        let former = self.current.take();
        let current = target(&self.host, &self.own, fleet);
        let current = current.map(|current| follows(current, former.as_ref()));
        self.current = current.map(|current| RealHost::noted(current, notices));
        self.is_settled = false;
    }

    /// Looks at the host, and makes it as it should be.
    pub(super) async fn round(&mut self) {
        self.follow_bridges().await;
        let Some(current) = &self.current else {
            self.is_clean = true;
            return;
        };
        if self.is_down {
            self.is_clean = true;
            return;
        }
        let began = Instant::now();
        let _round = lap("a round");
        if !self.has_looked {
            // What a host has already is found out before it is changed: a restart changes nothing.
            self.has_looked = true;
            let _ = self.host.observe(current).await;
            if let Some(fitted) = self.host.fitted(current) {
                self.current = Some(fitted);
            }
        }
        let Some(current) = &self.current else {
            return;
        };
        if self.counts_are_due(began) {
            self.host.count_anew();
            self.exporter.counted = Some(began);
        }
        let (mut round, mut seen) = reconcile::converge_seen(&mut self.host, current).await;
        let mut was_settled = self.is_settled;
        if let Some(fitted) = self.host.fitted(current) {
            events::of_round(&round, was_settled);
            self.exporter.note(&round, seen, was_settled, began);
            // The ways to peers have changed, nobody has touched what is ours.
            was_settled = false;
            (round, seen) = reconcile::converge_seen(&mut self.host, &fitted).await;
            self.current = Some(fitted);
        }
        let Some(current) = &self.current else {
            return;
        };
        // Twice as long as a round is away: by default, once a minute.
        let every = self.own.reconcile.interval * 2;
        self.host.look_for_holes(current, &seen, every).await;
        self.exporter.note(&round, seen, was_settled, began);
        let conditions = reconcile::conditions(current, &round, &self.conditions, unix_now());
        events::of_round(&round, was_settled);
        events::of_conditions(current, &self.conditions, &conditions);
        self.conditions = conditions;
        self.ended(&round);
    }

    /// Whether there are uplinks to look at.
    pub(super) fn looks(&self) -> bool {
        let has_choice = |target: &Target| target.intent.networks.values().any(|n| !n.shared.is_empty());
        !self.is_down && self.current.as_ref().is_some_and(has_choice)
    }

    /// Looks at the uplinks; the answer is whether a round is due, since another one shall carry.
    pub(super) async fn look(&mut self) -> bool {
        let Some(current) = self.current.as_ref().filter(|_| !self.is_down) else {
            return false;
        };
        let choices = self.host.look_at_uplinks(current).await;
        let mut moves = BTreeMap::new();
        for (id, choice) in &choices {
            if let Some(reason) = choice.reason() {
                // A move that couldn't be made is tried again as any change is, and said once.
                if self.moves.get(id) != Some(&choice.carrier) {
                    let network = events::name_of(current, *id);
                    Event::UplinkMoved { network, reason }.emit();
                }
                moves.insert(*id, choice.carrier.clone());
            }
        }
        let is_new = moves
            .iter()
            .any(|(id, carrier)| self.moves.get(id) != Some(carrier));
        self.moves = moves;
        // What the next round moves, nobody else has changed.
        self.is_settled &= !is_new;
        is_new
    }

    /// Follows peers that change keys; none where none does.
    pub(super) async fn follow_keys(&mut self) -> Option<Followed> {
        let current = self.current.as_ref().filter(|_| !self.is_down)?;
        let followed = self.host.follow_keys(current).await;
        self.is_settled &= !followed.is_some_and(|followed| followed.moved);
        followed
    }

    /// The firewall is read again only when it was changed: for its counters once an interval, and only where they are told.
    fn counts_are_due(&self, now: Instant) -> bool {
        let interval = self.own.reconcile.interval;
        let is_due = |last: Instant| now.duration_since(last) >= interval;
        self.own.metrics_listen.is_some() && self.exporter.counted.is_none_or(is_due)
    }

    /// Has monitoring told how everything is now, if it is to be.
    pub(super) fn publish(&mut self) {
        let mut exporter = std::mem::replace(&mut self.exporter, Exporter::new());
        exporter.publish(self.own.metrics_listen, |exporter| {
            metrics::text(&self.view(exporter, &self.recent.counts("run")))
        });
        self.exporter = exporter;
    }

    fn view<'a>(&'a self, exporter: &'a Exporter, events: &'a [(&'static str, u64)]) -> View<'a> {
        View {
            node: &self.own.node,
            target: self.current.as_ref(),
            observation: exporter.seen.as_ref(),
            conditions: &self.conditions,
            backends: self.host.backends(),
            config_bad: self.errors.as_ref().map(|(errors, since)| (errors.len(), *since)),
            is_pending: self.pending.is_some(),
            is_down: self.is_down,
            tallies: &exporter.tallies,
            events,
        }
    }

    /// What is left is tried again soon; once all was done, the take-over from the former fleet has ended.
    fn ended(&mut self, round: &Round) {
        self.is_clean = round.execution.failures.is_empty()
            && round.left.steps.is_empty()
            && round.left.unreadable.is_empty();
        self.is_settled = self.is_clean && !self.is_down;
        self.retries = if self.is_clean {
            0
        } else {
            self.retries.saturating_add(1)
        };
        if let Some(current) = self
            .current
            .as_mut()
            .filter(|_| round.execution.failures.is_empty())
        {
            current.wireguard.arrive();
        }
    }

    /// Answers a command.
    pub(super) async fn answer(&mut self, request: Request) -> Answer {
        self.follow_bridges().await;
        match request {
            Request::Status => self.status().await,
            Request::Plan { protected } => {
                self.reload();
                self.follow_bridges().await;
                if let Some((errors, _)) = &self.errors {
                    return refused(errors);
                }
                self.plan(protected).await
            }
            Request::Apply { expect, protected } => {
                self.reload();
                self.follow_bridges().await;
                if let Some((errors, _)) = &self.errors {
                    return refused(errors);
                }
                self.apply(expect, protected).await
            }
            Request::Down => self.down().await,
            Request::Events => self.events(),
            Request::Ways => {
                let known = self.host.known_ways();
                done(&known, known.to_string(), true, 0)
            }
        }
    }

    /// The target that an apply would make true.
    fn wanted(&self) -> Option<Target> {
        match &self.pending {
            Some(loaded) => target(&self.host, &loaded.host, &loaded.fleet).map(|target| Target {
                own_key: loaded.private_key.public(),
                ..RealHost::noted(follows(target, self.current.as_ref()), &loaded.notices)
            }),
            None => self.current.clone(),
        }
    }

    async fn plan(&mut self, protected: Vec<LinkName>) -> Answer {
        let Some(wanted) = self.wanted() else {
            return nothing();
        };
        self.host.protect(protected.into_iter().collect());
        let (wanted, observation) = self.host.observe_fitted(wanted).await;
        self.host.protect(self.protected.clone());
        plan_answer(&reconcile::plan(&wanted, &observation))
    }

    async fn apply(&mut self, expect: Option<String>, protected: Vec<LinkName>) -> Answer {
        let Some(wanted) = self.wanted() else {
            return nothing();
        };
        let protected: BTreeSet<LinkName> = protected.into_iter().collect();
        self.host.protect(protected.clone());
        let (wanted, observation) = self.host.observe_fitted(wanted).await;
        let planned = reconcile::plan(&wanted, &observation);
        if let Some(expect) = expect
            && expect != planned.fingerprint()
        {
            self.host.protect(self.protected.clone());
            return Answer::Refused {
                reason: format!(
                    "the plan has changed: it is {} now; look at `sdwand plan` again",
                    planned.fingerprint()
                ),
            };
        }
        if let Some(loaded) = self.pending.take() {
            self.adopt(loaded);
        }
        self.is_down = false;
        self.protected = protected;
        let began = Instant::now();
        let (round, seen) = reconcile::converge_seen(&mut self.host, &wanted).await;
        self.exporter.note(&round, seen, self.is_settled, began);
        let conditions = reconcile::conditions(&wanted, &round, &self.conditions, unix_now());
        events::of_round(&round, self.is_settled);
        events::of_conditions(&wanted, &self.conditions, &conditions);
        self.conditions = conditions;
        self.ended(&round);
        round_answer(&round)
    }

    async fn down(&mut self) -> Answer {
        let nothing = self.host.nothing(&self.own);
        self.is_down = true;
        self.is_settled = false;
        let round = reconcile::converge(&mut self.host, &nothing).await;
        self.conditions = reconcile::conditions(&nothing, &round, &Conditions::new(), unix_now());
        Event::Down.emit();
        round_answer(&round)
    }

    /// What happened lately.
    fn events(&self) -> Answer {
        let records = self.recent.records();
        let mut lines: Vec<String> = records.iter().map(ToString::to_string).collect();
        lines.push(String::new());
        done(&records, lines.join("\n"), true, 0)
    }

    async fn status(&mut self) -> Answer {
        let pending = match (&self.pending, self.wanted()) {
            (Some(_), Some(wanted)) => {
                let (wanted, observation) = self.host.observe_fitted(wanted).await;
                reconcile::plan(&wanted, &observation).steps.len()
            }
            (Some(_), None) | (None, _) => 0,
        };
        self.host.count_anew();
        let observation = match &self.current {
            Some(current) => Some(self.host.observe(current).await),
            None => None,
        };
        let conditions = self.conditions_now(observation.as_ref());
        let state = DaemonState {
            config: match &self.errors {
                None => ConfigState::Good,
                Some((errors, since)) => ConfigState::Bad {
                    errors: errors.to_string(),
                    since: *since,
                },
            },
            mode: self.own.reconcile.mode,
            is_down: self.is_down,
            pending_changes: pending,
        };
        let status = Status::new(
            &self.own.node,
            self.current.as_ref(),
            observation.as_ref(),
            &conditions,
            self.host.backends(),
            Some(state),
            system_now(),
        );
        let ok = conditions
            .values()
            .all(|condition| condition.state == ConditionState::Converged);
        done(&status, status.to_string(), ok, pending)
    }

    /// The conditions by what was read just now: what changed since the last round shows as drift.
    fn conditions_now(&self, observation: Option<&Observation>) -> Conditions {
        let (Some(current), Some(observation), false) = (&self.current, observation, self.is_down) else {
            return self.conditions.clone();
        };
        let left = reconcile::plan(current, observation);
        let seen = Round {
            plan: left.clone(),
            execution: Execution::default(),
            left,
        };
        let mut now = reconcile::conditions(current, &seen, &self.conditions, unix_now());
        for (key, condition) in &mut now {
            // A look doesn't try: what failed and is still to do has failed.
            if let Some(failed) = self.conditions.get(key)
                && failed.state == ConditionState::Failed
                && condition.state == ConditionState::Drifted
            {
                *condition = failed.clone();
            }
        }
        now
    }
}

/// How many are as the fleet says, and the first that isn't.
fn summary(conditions: &Conditions) -> String {
    let is_amiss = |condition: &Condition| condition.state != ConditionState::Converged;
    let amiss = conditions
        .values()
        .filter(|condition| is_amiss(condition))
        .count();
    let first = conditions.iter().find(|(_, condition)| is_amiss(condition));
    let counted = format!(
        "{} of {} conditions converged",
        conditions.len() - amiss,
        conditions.len()
    );
    let Some(((plane, network), condition)) = first else {
        return counted;
    };
    let network = network
        .map(|network| format!(" of network {network}"))
        .unwrap_or_default();
    format!("{counted}; {plane}{network}: {}", condition.reason)
}

fn target(host: &RealHost, own: &HostConfig, fleet: &Fleet) -> Option<Target> {
    match host.target(own, fleet) {
        Ok(target) => Some(target),
        Err(error) => {
            let error = error.to_string();
            Event::ConfigNotForThisHost { error }.emit();
            None
        }
    }
}

/// The fleet, where this host is the gateway of one of its bridges, or the networks that it is in may be in the way of one.
fn bridged(
    host: &RealHost,
    own: &HostConfig,
    fleet: &Fleet,
    notices: &[config::Notice],
) -> Option<(Fleet, Vec<config::Notice>)> {
    let mut bridges = fleet.bridges.values();
    let is_here = own.federation.is_some() && bridges.any(|bridge| bridge.gateways.contains(&own.node));
    let follows = is_here || host.minds_underlay(fleet);
    follows.then(|| (fleet.clone(), notices.to_vec()))
}

/// The target with what it takes over from the one before.
fn follows(mut target: Target, former: Option<&Target>) -> Target {
    if let Some(former) = former {
        target.wireguard.leave(&former.wireguard);
    }
    target
}

fn refused(errors: &Diagnostics) -> Answer {
    let text = errors.to_string();
    match serde_json::to_value(errors) {
        Ok(diagnostics) => Answer::BadConfig { text, diagnostics },
        Err(_) => Answer::Refused { reason: text },
    }
}

fn nothing() -> Answer {
    Answer::Refused {
        reason: "no configuration is in force: see `sdwand check`".to_owned(),
    }
}

fn done(json: &impl serde::Serialize, text: String, ok: bool, changes: usize) -> Answer {
    match serde_json::to_value(json) {
        Ok(json) => Answer::Done {
            json,
            text,
            ok,
            changes,
        },
        Err(error) => Answer::Refused {
            reason: format!("the answer can't be written as JSON: {error}"),
        },
    }
}

/// The answer to `plan`.
pub(crate) fn plan_answer(plan: &Plan) -> Answer {
    done(
        &crate::report::plan::PlanReport::new(plan),
        plan.to_string(),
        plan.is_converged(),
        plan.steps.len(),
    )
}

/// The answer to `apply` and `down`.
pub(crate) fn round_answer(round: &Round) -> Answer {
    let report = crate::report::plan::RoundReport::new(round);
    let text = report.to_string();
    let ok = report.ok;
    done(&report, text, ok, round.plan.steps.len())
}
