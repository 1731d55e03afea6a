//! `sdwand service …`: services offered to peers, and those of peers that this site uses. Each change is one fragment.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use hyper::Method;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::grant::read_all;
use super::{Api, which};
use crate::api::operator::{API, FEDERATION};
use crate::cli::{CliError, Global};
use crate::config;
use crate::config::service_fragment::{Service, ServiceDraft, ServiceEditError, Sort, draft, removal};
use crate::federation::pki::authority::write_whole;
use crate::model::network::{PortRange, Protocol, Selector};
use crate::model::routing::Bridge;
use crate::model::service::{Access, Offer, Subscription};
use crate::model::{Fleet, Name};

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// What a peer offers to this site, as its grant lets us read it
    #[command(after_help = "Example:
  sdwand service list site-b --grant token.txt
  sdwand service list site-b --grant token.txt --json | jq -r '.[].id'

The peer's operator gives the grant: sdwand grant create site-a --kind service --subject operator@site-a")]
    List(List),
    /// Let a peer use a virtual IP of ours, over its bridge: writes one fragment
    #[command(after_help = "Example:
  sdwand service offer k3s-api --bridge prod-b --tcp 6443
  sdwand service offer dns --bridge prod-b --udp 53 --name resolver --dry-run

Nothing else is opened: the virtual IP is exported, and a rule lets the peer in on these ports.")]
    Offer(OfferArgs),
    /// Take an offer back: removes its fragment
    #[command(after_help = "Example:
  sdwand service withdraw k3s-api")]
    Withdraw(Named),
    /// Use a service of a peer: asks its catalog, and writes one fragment
    #[command(after_help = "Example:
  sdwand service subscribe site-b/k3s-api --grant token.txt
  sdwand service subscribe site-b/k3s-api --grant token.txt --from tag:office --name k3s-of-b --dry-run

Nothing else is opened: the address is imported, and a rule lets --from out to it on the service's ports.")]
    Subscribe(SubscribeArgs),
    /// Use a service no longer: removes its fragment
    #[command(after_help = "Example:
  sdwand service unsubscribe k3s-api")]
    Unsubscribe(Named),
    /// What this site offers, and which peers say that they use it, since when
    #[command(after_help = "Example:
  sdwand service offers
  sdwand service offers --json | jq -r '.[] | select(.subscribers == []) | .service'

A peer tells by itself once its fleet subscribes; that opens nothing. Ask here before an offer is withdrawn.")]
    Offers,
    /// The services of this site's fleet: what it offers, and what it uses
    #[command(after_help = "Example:
  sdwand service show --json | jq '.subscriptions'")]
    Show,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// The file with the grant's bearer token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    grant: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("ports").required(true).args(["tcp", "udp"]))]
pub(crate) struct OfferArgs {
    /// The virtual IP, of the bridge's network
    vip: Name,
    /// The bridge that it is offered over
    #[arg(long, value_name = "BRIDGE")]
    bridge: Name,
    /// TCP ports or ranges
    #[arg(long, value_name = "PORTS", num_args = 1.., value_parser = ports)]
    tcp: Vec<PortRange>,
    /// UDP ports or ranges
    #[arg(long, value_name = "PORTS", num_args = 1.., value_parser = ports)]
    udp: Vec<PortRange>,
    /// What the peer calls it [default: as the virtual IP]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// What it is, for the peer's eyes
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Show the fragment, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SubscribeArgs {
    /// The peer's alias or id, and what it calls the service
    #[arg(value_name = "PEER/NAME", value_parser = service)]
    service: (String, Name),
    /// The file with the grant's bearer token; `-` is standard input
    #[arg(long, value_name = "FILE")]
    grant: Option<PathBuf>,
    /// The bridge that leads to it [default: the one into the service's network]
    #[arg(long, value_name = "BRIDGE")]
    bridge: Option<Name>,
    /// Who of the bridge's network may use it: any, a prefix, or node:, tag:, `lan_of`: or vip: and a name
    #[arg(long, value_name = "SELECTOR", default_value = "any", value_parser = selector)]
    from: Selector,
    /// What it is called here [default: as there]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// Show the fragment, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name, as `service show` prints it
    name: Name,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

fn ports(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(PortRange { first, last }),
        _ => Err("neither a port nor a range: 6443, 8000-8010".to_owned()),
    }
}

fn service(text: &str) -> Result<(String, Name), String> {
    let (peer, name) = text
        .split_once('/')
        .ok_or("the peer's alias, a slash and the service's name: site-b/k3s-api")?;
    let name = Name::new(name).map_err(|error| error.to_string())?;
    Ok((which(peer)?, name))
}

fn selector(text: &str) -> Result<Selector, String> {
    if text == "any" {
        return Ok(Selector::Any);
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(Selector::Cidr(net.trunc()));
    }
    let (kind, name) = text
        .split_once(':')
        .ok_or("any, a prefix, node:NAME, tag:NAME, lan_of:NAME or vip:NAME")?;
    let name = Name::new(name).map_err(|error| error.to_string())?;
    match kind {
        "node" => Ok(Selector::Node(name)),
        "tag" => Ok(Selector::Tag(name)),
        "lan_of" => Ok(Selector::LanOf(name)),
        "vip" => Ok(Selector::Vip(name)),
        _ => Err(format!(
            "no {kind:?}: node:NAME, tag:NAME, lan_of:NAME or vip:NAME"
        )),
    }
}

pub(crate) async fn service_command(global: &Global, command: ServiceCommand) -> Result<ExitCode, CliError> {
    match command {
        ServiceCommand::List(asked) => list(global, &asked).await,
        ServiceCommand::Offer(asked) => offer(global, asked),
        ServiceCommand::Withdraw(asked) => remove(global, Sort::Offer, &asked),
        ServiceCommand::Subscribe(asked) => subscribe(global, asked).await,
        ServiceCommand::Unsubscribe(asked) => remove(global, Sort::Subscription, &asked),
        ServiceCommand::Offers => offers(global).await,
        ServiceCommand::Show => show(global),
    }
}

async fn list(global: &Global, asked: &List) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    let told = read_all(&api, &asked.peer, ("service", None), asked.grant.as_deref(), None).await?;
    let services = told["resources"].as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    for service in &services {
        let word = |key: &str| service[key].as_str().unwrap_or("-");
        let ports: Vec<&str> = service["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let access = if ports.is_empty() {
            "no ports told".to_owned()
        } else {
            format!("{} {}", word("protocol"), ports.join(", "))
        };
        let _ = writeln!(
            text,
            "{:<24} {:<24} {access:<20} network {}  {}",
            word("id"),
            word("address"),
            word("network"),
            service["description"].as_str().unwrap_or_default()
        );
    }
    global.print(
        &services,
        if text.is_empty() {
            "nothing is offered\n"
        } else {
            &text
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn offer(global: &Global, asked: OfferArgs) -> Result<ExitCode, CliError> {
    let folder = config::load_host(&global.config)?.0.fleet_dir;
    let (protocol, ports) = if asked.tcp.is_empty() {
        (Protocol::Udp, asked.udp)
    } else {
        (Protocol::Tcp, asked.tcp)
    };
    let offer = Offer {
        name: asked.name.unwrap_or_else(|| asked.vip.clone()),
        bridge: asked.bridge,
        vip: asked.vip,
        access: Access { protocol, ports },
        description: asked.description,
    };
    write(global, &folder, &Service::Offer(offer), asked.dry_run)
}

async fn subscribe(global: &Global, asked: SubscribeArgs) -> Result<ExitCode, CliError> {
    let folder = config::load_host(&global.config)?.0.fleet_dir;
    let api = Api::open(global)?;
    let (peer, name) = &asked.service;
    let known = api.ask(Method::GET, &format!("{API}/{peer}"), None).await?;
    let alias = known["alias"].as_str().and_then(|alias| Name::new(alias).ok());
    let alias =
        alias.ok_or_else(|| CliError::Other("the gateway tells of no alias of this peer".to_owned()))?;
    let one = ("service", Some(name.as_str()));
    let told = read_all(&api, peer, one, asked.grant.as_deref(), None).await?;
    let services = told["resources"].as_array();
    // A virtual IP's name finds the offers of it, too.
    let found = services.and_then(|all| all.iter().find(|service| service["id"] == name.as_str()));
    let found = found.ok_or_else(|| {
        CliError::Other(format!(
            "{alias} offers no {name}: see `sdwand service list {alias}`"
        ))
    })?;
    let (address, access, network) = read_service(found).ok_or_else(|| {
        CliError::Other(format!(
            "{alias} tells of no address, protocol and ports of {name} that make sense: {found}"
        ))
    })?;
    let fleet = config::load_fleet(&folder)?.fleet;
    let bridge = match asked.bridge {
        Some(bridge) => bridge,
        None => the_bridge(&fleet, &alias, &network)?.name.clone(),
    };
    let subscription = Subscription {
        name: asked.name.unwrap_or_else(|| name.clone()),
        bridge,
        service: name.clone(),
        address,
        access,
        from: asked.from,
    };
    write(
        global,
        &folder,
        &Service::Subscription(subscription),
        asked.dry_run,
    )
}

/// What a peer's catalog says of one service. Nothing of it is believed but that it is so there: what it may be is judged
/// with the whole fleet.
fn read_service(told: &Value) -> Option<(IpAddr, Access, Name)> {
    let address = told["address"].as_str()?.parse().ok()?;
    let protocol = match told["protocol"].as_str()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let listed = told["ports"].as_array()?;
    let read: Option<Vec<PortRange>> = listed.iter().map(|port| ports(port.as_str()?).ok()).collect();
    let ports = read.filter(|ports| !ports.is_empty())?;
    let network = Name::new(told["network"].as_str()?).ok()?;
    Some((address, Access { protocol, ports }, network))
}

/// The bridge to a network of a peer.
fn the_bridge<'f>(fleet: &'f Fleet, peer: &Name, network: &Name) -> Result<&'f Bridge, CliError> {
    let bridges = fleet
        .bridges
        .values()
        .filter(|bridge| bridge.peer == *peer && bridge.remote_network == *network);
    let found: Vec<&Bridge> = bridges.collect();
    match found.as_slice() {
        [bridge] => Ok(bridge),
        [] => Err(CliError::Other(format!(
            "no bridge leads to network {network} of {peer}: `sdwand peer bridge {peer} --network NETWORK --remote-network {network}` makes one"
        ))),
        many => {
            let names: Vec<&str> = many.iter().map(|bridge| bridge.name.as_str()).collect();
            Err(CliError::Other(format!(
                "several bridges lead to network {network} of {peer}: give --bridge, one of {}",
                names.join(", ")
            )))
        }
    }
}

fn write(global: &Global, folder: &Path, service: &Service, dry_run: bool) -> Result<ExitCode, CliError> {
    let draft = draft(folder, service).map_err(refused)?;
    let path = draft.path.display();
    let text = draft.text.as_deref().unwrap_or_default();
    let shown = if dry_run {
        format!("would write {path}:\n\n{text}")
    } else if draft.is_unchanged {
        format!("{path} is so already\n")
    } else {
        write_whole(&draft.path, text, 0o644)
            .map_err(|error| CliError::Other(format!("can't write {path}: {error}; as root it can")))?;
        format!("wrote {path}; also needed on every other host of the site\n")
    };
    told(global, &draft, dry_run, &shown)
}

fn remove(global: &Global, sort: Sort, asked: &Named) -> Result<ExitCode, CliError> {
    let folder = config::load_host(&global.config)?.0.fleet_dir;
    let draft = removal(&folder, sort, &asked.name).map_err(refused)?;
    let path = draft.path.display();
    let shown = if draft.is_unchanged {
        format!("there is no {path}: nothing to remove\n")
    } else if asked.dry_run {
        format!("would remove {path}\n")
    } else {
        std::fs::remove_file(&draft.path)
            .map_err(|error| CliError::Other(format!("can't remove {path}: {error}; as root it can")))?;
        format!("removed {path}; remove it on every other host of the site, too\n")
    };
    told(global, &draft, asked.dry_run, &shown)
}

fn told(global: &Global, draft: &ServiceDraft, dry_run: bool, shown: &str) -> Result<ExitCode, CliError> {
    let changed = !draft.is_unchanged && !dry_run;
    let json = json!({ "fragment": draft.path, "text": draft.text, "changed": changed });
    global.print(&json, shown)?;
    Ok(ExitCode::SUCCESS)
}

fn refused(error: ServiceEditError) -> CliError {
    match error {
        ServiceEditError::Fleet(diagnostics) => CliError::Config(diagnostics),
        error @ (ServiceEditError::Elsewhere { .. }
        | ServiceEditError::Foreign(_)
        | ServiceEditError::Read { .. }) => CliError::new(&error),
    }
}

async fn offers(global: &Global) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    let told = api
        .ask(Method::GET, &format!("{FEDERATION}/offers"), None)
        .await?;
    let mut text = String::new();
    for offer in told.as_array().into_iter().flatten() {
        let word = |of: &Value, key: &str| of[key].as_str().unwrap_or("-").to_owned();
        let users: Vec<String> = { offer["subscribers"].as_array().into_iter().flatten() }
            .map(|one| format!("{} since {}", word(one, "peer"), word(one, "since")))
            .collect();
        let users = if users.is_empty() {
            "nobody says that it uses it".to_owned()
        } else {
            format!("used by {}", users.join(", "))
        };
        let [service, peer, bridge] = ["service", "peer", "bridge"].map(|key| word(offer, key));
        let _ = writeln!(text, "{service:<24} to {peer}, over bridge {bridge}: {users}");
    }
    if text.is_empty() {
        text.push_str("this site offers nothing: `sdwand service offer`\n");
    }
    global.print(&told, &text)?;
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global) -> Result<ExitCode, CliError> {
    let folder = config::load_host(&global.config)?.0.fleet_dir;
    let fleet = config::load_fleet(&folder)?.fleet;
    let peer = |bridge: &Name| {
        fleet
            .bridges
            .get(bridge)
            .map_or("-", |bridge| bridge.peer.as_str())
    };
    let list = |access: &Access| -> Vec<String> { access.ports.iter().map(ToString::to_string).collect() };
    let word = |access: &Access| {
        if access.protocol == Protocol::Udp {
            "udp"
        } else {
            "tcp"
        }
    };
    let mut text = String::new();
    let (mut offers, mut subscriptions) = (Vec::new(), Vec::new());
    for offer in fleet.offers.values() {
        let (to, ports, protocol) = (peer(&offer.bridge), list(&offer.access), word(&offer.access));
        let _ = writeln!(
            text,
            "offer {} to {to}: virtual IP {}, {protocol} {}, over bridge {}",
            offer.name,
            offer.vip,
            ports.join(", "),
            offer.bridge
        );
        offers.push(json!({
            "name": offer.name, "peer": to, "bridge": offer.bridge, "vip": offer.vip, "protocol": protocol, "ports": ports,
            "description": offer.description,
        }));
    }
    for one in fleet.subscriptions.values() {
        let (of, ports, protocol) = (peer(&one.bridge), list(&one.access), word(&one.access));
        let _ = writeln!(
            text,
            "subscription {}: {} of {of}, {}, {protocol} {}, over bridge {}",
            one.name,
            one.service,
            one.address,
            ports.join(", "),
            one.bridge
        );
        subscriptions.push(json!({
            "name": one.name, "peer": of, "service": one.service, "bridge": one.bridge, "address": one.address,
            "protocol": protocol, "ports": ports, "from": one.from,
        }));
    }
    let told = json!({ "offers": offers, "subscriptions": subscriptions });
    global.print(
        &told,
        if text.is_empty() {
            "no offers and no subscriptions\n"
        } else {
            &text
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_of_a_service_makes_sense_or_is_refused() {
        let good = json!({
            "id": "api", "address": "fd77:1:2:5::100", "protocol": "tcp", "ports": ["6443", "8000-8010"], "network": "lab",
        });
        let (address, access, network) = read_service(&good).unwrap();
        assert_eq!(address.to_string(), "fd77:1:2:5::100");
        assert_eq!((access.ports.len(), network.as_str()), (2, "lab"));
        for (key, bad) in [
            ("address", json!("fd77::/64")),
            ("protocol", json!("icmp")),
            ("protocol", json!("any")),
            ("ports", json!([])),
            ("ports", json!(["0"])),
            ("ports", json!(["9-1"])),
            ("ports", json!([443])),
            ("ports", Value::Null),
            ("network", json!("\u{1b}[2J")),
        ] {
            let mut odd = good.clone();
            odd[key] = bad.clone();
            assert!(read_service(&odd).is_none(), "{key} {bad}");
        }
    }

    #[test]
    fn selectors_are_read_as_they_are_written() {
        let name = || Name::new("x").unwrap();
        assert_eq!(selector("any"), Ok(Selector::Any));
        assert_eq!(selector("tag:x"), Ok(Selector::Tag(name())));
        assert_eq!(selector("lan_of:x"), Ok(Selector::LanOf(name())));
        assert_eq!(
            selector("fd00::1/64"),
            Ok(Selector::Cidr("fd00::/64".parse().unwrap()))
        );
        for bad in ["federation:x", "x", "node:", "tag:X"] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }
}
