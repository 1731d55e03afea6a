//! `sdwand peer bridge`: a bridge as a fragment of the fleet, and what came of it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stderr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Api, which};
use crate::api::operator::API;
use crate::cli::{CliError, Global};
use crate::config;
use crate::config::bridge::{BridgeEditError, Draft, default_name, draft, removal};
use crate::federation::pki::authority::write_whole;
use crate::model::host::HostConfig;
use crate::model::routing::{Bridge, Export};
use crate::model::{Fleet, Name};

/// How often it is looked how far the bridge is.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct BridgeArgs {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// The network of this site that it leads into
    #[arg(long, value_name = "NETWORK")]
    network: Name,
    /// What is taken from the peer [default: its /48]
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    import: Vec<IpNet>,
    /// What is given to the peer: prefixes, or virtual IPs as vip:NAME [default: the network's prefixes]
    #[arg(long, value_name = "CIDR|vip:NAME", num_args = 1.., value_parser = export)]
    export: Vec<Export>,
    /// What the peer calls the network at its end [default: as here]
    #[arg(long, value_name = "NETWORK")]
    remote_network: Option<Name>,
    /// What the bridge is called [default: <NETWORK>-<PEER>]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// The gateway that it runs on [default: this one]
    #[arg(long, value_name = "NODE")]
    gateway: Option<Name>,
    /// Show the fragment and what would be negotiated, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove the fragment, and with it the bridge
    #[arg(long, conflicts_with_all = ["import", "export", "remote_network", "gateway"])]
    remove: bool,
    /// Don't wait until the bridge is active
    #[arg(long)]
    no_wait: bool,
    /// How many seconds to wait until the bridge is active
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    wait: u64,
}

fn export(text: &str) -> Result<Export, String> {
    match text.strip_prefix("vip:") {
        Some(name) => Name::new(name)
            .map(Export::Vip)
            .map_err(|error| error.to_string()),
        None => text
            .parse()
            .map(Export::Prefix)
            .map_err(|_| "neither a prefix nor vip:NAME".to_owned()),
    }
}

/// What stands of a bridge in an answer, as text.
pub(super) fn line(bridge: &Value) -> String {
    let list = |key: &str| {
        let nets = bridge[key].as_array().into_iter().flatten();
        let nets: Vec<&str> = nets.filter_map(Value::as_str).collect();
        if nets.is_empty() {
            "nothing".to_owned()
        } else {
            nets.join(", ")
        }
    };
    let word = |key: &str| bridge[key].as_str().unwrap_or("-");
    let mut text = format!(
        "bridge {} ({} to {} there), {}: imports {}, exports {}, agreed {}\n",
        word("name"),
        word("network"),
        word("remote_network"),
        word("state"),
        list("import"),
        list("export"),
        list("agreed"),
    );
    if let Some(advice) = bridge["advice"].as_str() {
        let _ = writeln!(text, "  {advice}");
    }
    if bridge["listener"].is_object() {
        let _ = write!(text, "  {}", super::pause::listening(&bridge["listener"]));
    }
    if let Some(at) = bridge["peer_listener"].as_str() {
        let _ = writeln!(
            text,
            "  its gateway listens at {at}: `sdwand peer call … --network {}`",
            word("network")
        );
    }
    text
}

pub(super) async fn bridge(global: &Global, api: &Api, asked: BridgeArgs) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let peer = api
        .ask(Method::GET, &format!("{API}/{}", asked.peer), None)
        .await?;
    let alias = peer["alias"].as_str().and_then(|alias| Name::new(alias).ok());
    let alias =
        alias.ok_or_else(|| CliError::Other("the gateway tells of no alias of this peer".to_owned()))?;
    let id = peer["id"].as_str().unwrap_or_default().to_owned();
    if asked.remove {
        let draft = removal(&own.fleet_dir, &alias, &asked.network, asked.name.as_ref()).map_err(refused)?;
        return removed(global, &asked, &draft, &elsewhere(&draft.fleet, &own));
    }
    let fleet = config::load_fleet(&own.fleet_dir)?.fleet;
    let wanted = wanted(&asked, &own, &fleet, alias, &peer)?;
    let draft = draft(&own.fleet_dir, &wanted).map_err(refused)?;
    let text = draft.text.clone().unwrap_or_default();
    let elsewhere = elsewhere(&draft.fleet, &own);
    let mut told = json!({
        "fragment": draft.path, "text": text, "changed": !draft.is_unchanged && !asked.dry_run, "bridge": null,
        "also_needed_on": elsewhere,
    });
    if asked.dry_run {
        let shown = format!(
            "would write {}{}:\n\n{text}\nThe peer would be told that {} is exported; it needs such a bridge, too.\n",
            draft.path.display(),
            also(&elsewhere),
            exported(&wanted, &draft.fleet),
        );
        global.print(&told, &shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !draft.is_unchanged {
        write(&draft.path, &text)?;
    }
    let what = if draft.is_unchanged { "unchanged" } else { "wrote" };
    if !global.json && !asked.no_wait {
        eprintln!("{what} {}{}", draft.path.display(), also(&elsewhere));
    }
    let seen = if asked.no_wait {
        None
    } else {
        say(global, "waiting for the peer");
        let whole = draft.fleet.bridges.get(&wanted.name).unwrap_or(&wanted);
        Some(until_active(api, &id, whole, &draft.fleet, asked.wait).await?)
    };
    let is_active = seen
        .as_ref()
        .is_none_or(|seen| seen["state"] == "active" && seen["waits_for"].is_null());
    let shown = seen.as_ref().map_or_else(
        || format!("{what} {}{}\n", draft.path.display(), also(&elsewhere)),
        line,
    );
    told["bridge"] = seen.unwrap_or(Value::Null);
    global.print(&told, &shown)?;
    // What waits isn't wrong.
    Ok(if is_active {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

fn refused(error: BridgeEditError) -> CliError {
    if let BridgeEditError::Fleet(diagnostics) = error {
        CliError::Config(diagnostics)
    } else {
        CliError::new(&error)
    }
}

fn say(global: &Global, text: &str) {
    if !global.json && stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// The other hosts of the site: fragments are the same on all of them.
fn elsewhere(fleet: &Fleet, own: &HostConfig) -> Vec<Name> {
    fleet
        .nodes
        .keys()
        .filter(|node| **node != own.node)
        .cloned()
        .collect()
}

/// The reminder that goes behind a fragment's path.
fn also(elsewhere: &[Name]) -> String {
    let names: Vec<&str> = elsewhere.iter().map(Name::as_str).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" (also needed on: {})", names.join(", "))
    }
}

/// What the operator means.
fn wanted(
    asked: &BridgeArgs,
    own: &HostConfig,
    fleet: &Fleet,
    alias: Name,
    peer: &Value,
) -> Result<Bridge, CliError> {
    let import = if asked.import.is_empty() {
        let shown = peer["remote_prefix_advertisement"]
            .as_str()
            .and_then(|net| net.parse().ok());
        vec![shown.ok_or_else(|| {
            CliError::Other(
                "the peer's prefix isn't known before trust was exchanged: give --import".to_owned(),
            )
        })?]
    } else {
        asked.import.clone()
    };
    let export = if asked.export.is_empty() {
        let network = fleet.networks.get(&asked.network).into_iter();
        network
            .flat_map(|network| {
                std::iter::once(IpNet::V6(network.prefix)).chain(network.prefix_v4.map(IpNet::V4))
            })
            .map(Export::Prefix)
            .collect()
    } else {
        asked.export.clone()
    };
    let name = match &asked.name {
        Some(name) => name.clone(),
        None => default_name(&asked.network, &alias).map_err(refused)?,
    };
    Ok(Bridge {
        name,
        peer: alias,
        network: asked.network.clone(),
        remote_network: asked
            .remote_network
            .clone()
            .unwrap_or_else(|| asked.network.clone()),
        gateways: vec![asked.gateway.clone().unwrap_or_else(|| own.node.clone())],
        import,
        export,
        enabled: true,
    })
}

fn exported(bridge: &Bridge, fleet: &Fleet) -> String {
    let all: Vec<String> = given(bridge, fleet).iter().map(ToString::to_string).collect();
    if all.is_empty() {
        "nothing".to_owned()
    } else {
        all.join(", ")
    }
}

/// The prefixes that are exported; a virtual IP that the fleet hasn't is left out.
fn given(bridge: &Bridge, fleet: &Fleet) -> Vec<IpNet> {
    let network = fleet.networks.get(&bridge.network).into_iter();
    let vips: Vec<_> = network.flat_map(|network| &network.virtual_ips).collect();
    let each = bridge.export.iter().filter_map(|export| match export {
        Export::Prefix(net) => Some(*net),
        Export::Vip(name) => {
            let vip = vips.iter().find(|vip| vip.name == *name);
            vip.map(|vip| IpNet::from(vip.address))
        }
    });
    each.collect()
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    write_whole(path, text, 0o644).map_err(|error| not_written(path, &error, text))
}

fn not_written(path: &Path, error: &std::io::Error, text: &str) -> CliError {
    let folder = path.parent().unwrap_or(path).display();
    CliError::Other(format!(
        "can't write to {folder}: {error}; as root it can, or put this there as {}:\n\n{text}",
        path.file_name().unwrap_or_default().to_string_lossy(),
    ))
}

fn removed(
    global: &Global,
    asked: &BridgeArgs,
    draft: &Draft,
    elsewhere: &[Name],
) -> Result<ExitCode, CliError> {
    let path = draft.path.display();
    let text = if draft.is_unchanged {
        format!("there is no {path}: nothing to remove\n")
    } else if asked.dry_run {
        format!("would remove {path}\n")
    } else {
        std::fs::remove_file(&draft.path)
            .map_err(|error| CliError::Other(format!("can't remove {path}: {error}")))?;
        format!("removed {path}{}\n", also(elsewhere))
    };
    let changed = !draft.is_unchanged && !asked.dry_run;
    let told = json!({ "fragment": draft.path, "text": null, "changed": changed, "bridge": null, "also_needed_on": elsewhere });
    global.print(&told, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the fleet says of a bridge's prefixes, as the gateway's answers have them.
struct Prefixes {
    import: Value,
    export: Value,
}

impl Prefixes {
    fn of(bridge: &Bridge, fleet: &Fleet) -> Self {
        let told = |nets: &[IpNet]| {
            let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
            nets.sort();
            nets.dedup();
            json!(nets)
        };
        Self {
            import: told(&bridge.import),
            export: told(&given(bridge, fleet)),
        }
    }

    /// Whether all of it is in force, and the gateway knows of nothing more.
    fn is_open(&self, seen: &Value) -> bool {
        let is_all = seen["import"] == self.import && seen["export"] == self.export;
        seen["state"] == "active" && seen["waits_for"].is_null() && is_all
    }

    /// Whether it waits for an operator's word: the gateway knows all of it, and what isn't approved is of it.
    fn is_undecided(&self, seen: &Value) -> bool {
        let is_asked = matches!(seen["waits_for"].as_str(), Some("approval" | "denied"));
        let of = |key: &str, wanted: &Value| {
            let nets = |nets: &Value| nets.as_array().cloned().unwrap_or_default();
            let (wanted, unapproved) = (nets(wanted), nets(&seen["unapproved"][key]));
            let (is_ours, is_open) = (
                unapproved.iter().all(|net| wanted.contains(net)),
                nets(&seen[key]),
            );
            is_ours && (wanted.iter()).all(|net| unapproved.contains(net) || is_open.contains(net))
        };
        is_asked && of("import", &self.import) && of("export", &self.export)
    }
}

/// Waits until the bridge is active with what the fragment says, or waits for an operator's word, which isn't given within
/// seconds; what is known of it at last.
async fn until_active(
    api: &Api,
    id: &str,
    wanted: &Bridge,
    fleet: &Fleet,
    seconds: u64,
) -> Result<Value, CliError> {
    let looks = seconds * 1_000 / u64::try_from(LOOK.as_millis()).unwrap_or(100);
    let mut seen = Value::Null;
    let prefixes = Prefixes::of(wanted, fleet);
    for look in 0..=looks {
        let all = api.ask(Method::GET, &format!("{API}/{id}/bridges"), None).await?;
        let mut named = all.as_array().into_iter().flatten();
        if let Some(found) = named.find(|found| found["name"] == wanted.name.as_str()) {
            seen = found.clone();
        }
        if prefixes.is_open(&seen) || prefixes.is_undecided(&seen) {
            break;
        }
        if look < looks {
            tokio::time::sleep(LOOK).await;
        }
    }
    if seen.is_null() {
        return Err(CliError::Other(format!(
            "the gateway hasn't taken bridge {} over in {seconds} s: does it run on {}, and does it read this fleet? see its log",
            wanted.name,
            wanted.gateways.first().map_or("-", Name::as_str),
        )));
    }
    Ok(seen)
}
