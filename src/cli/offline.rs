//! Commands that touch nothing but files: `pubkey`, `check`, `config defaults`, `compile`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{CliError, Global};
use crate::config;
use crate::intent::{self, IsolationMode};
use crate::model::host::{HostConfig, IsolationBackend};
use crate::model::{LinkName, Name};
use crate::planes::{firewall, l3, wireguard};

/// `compile`
#[derive(Debug, Args)]
pub(super) struct Compile {
    /// The node; any node of the fleet
    #[arg(long, value_name = "NAME")]
    node: Name,
    /// Only this plane
    #[arg(long, value_enum)]
    plane: Option<Plane>,
    /// With `--plane wireguard`: only this link; needed where the node has several
    #[arg(long, value_name = "LINK", requires = "plane", value_parser = LinkName::new)]
    link: Option<LinkName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Plane {
    L3,
    Wireguard,
    Firewall,
    Bgp,
    Ovn,
}

pub(super) fn pubkey(global: &Global) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let key = config::read_private_key(&own.private_key_file)
        .map_err(|error| CliError::new(&error))?
        .public();
    global.print(&json!({ "public_key": key }), &format!("{key}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check(global: &Global) -> Result<ExitCode, CliError> {
    #[derive(Serialize)]
    struct Good<'a> {
        ok: bool,
        node: &'a Name,
        fleet_digest: String,
        networks: usize,
        nodes: usize,
        notices: &'a [config::Notice],
    }
    let loaded = config::load(&global.config)?;
    let good = Good {
        ok: true,
        node: &loaded.host.node,
        fleet_digest: loaded.fleet.digest.to_string(),
        networks: loaded.fleet.networks.len(),
        nodes: loaded.fleet.nodes.len(),
        notices: &loaded.notices,
    };
    let mut text = String::new();
    for notice in &loaded.notices {
        let _ = writeln!(text, "note: {notice}");
    }
    let _ = writeln!(
        text,
        "ok: node {} of site {}, {} networks, {} nodes, fleet {}",
        good.node, loaded.fleet.site.name, good.networks, good.nodes, good.fleet_digest
    );
    global.print(&good, &text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn defaults(global: &Global) -> Result<ExitCode, CliError> {
    let (host, fleet) = (
        config::defaults::host_document(),
        config::defaults::fleet_document(),
    );
    let text = format!("{host}\n{fleet}");
    global.print(&json!({ "sdwand.toml": host, "fleet.d": fleet }), &text)?;
    Ok(ExitCode::SUCCESS)
}

fn names(links: &[&LinkName]) -> String {
    let links: Vec<&str> = links.iter().map(|link| link.as_str()).collect();
    links.join(", ")
}

/// Offline nothing is known of the other node's kernel: it is taken to have VRFs, unless this host says otherwise.
pub(super) fn facts(own: &HostConfig) -> intent::Facts {
    intent::Facts {
        isolation: match own.isolation.backend {
            IsolationBackend::Auto | IsolationBackend::Vrf => IsolationMode::Vrf,
            IsolationBackend::Rules => IsolationMode::Rules,
        },
        host_services_in_vrf: own.isolation.host_services_in_vrf,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    }
}

pub(super) fn compile(global: &Global, args: &Compile) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let fleet = config::load_fleet(&own.fleet_dir)?.fleet;
    let facts = facts(&own);
    let intent = intent::compile(&fleet, &args.node, &facts).map_err(|error| CliError::new(&error))?;
    let mut parts = serde_json::Map::new();
    let mut text = String::new();
    let mut part = |plane: Plane, name: &str, body: String| {
        if args.plane.is_some_and(|wanted| wanted != plane) {
            return;
        }
        if args.plane.is_none() {
            let _ = writeln!(text, "## {name}");
        }
        text.push_str(&body);
        parts.insert(name.to_owned(), body.into());
    };
    let later = |plane: &str| format!("# not yet applied: {plane}\n");
    part(
        Plane::L3,
        "l3",
        l3::render(&l3::compile(&intent, &l3::Facts::offline())),
    );
    let devices = wireguard::compile(&intent);
    let links: Vec<&LinkName> = devices.devices.keys().collect();
    let links = match (&args.link, args.plane) {
        (Some(link), _) if !links.contains(&link) => {
            return Err(CliError::Other(format!(
                "node {} has no link {link}; it has {}",
                args.node,
                names(&links)
            )));
        }
        (Some(link), _) => vec![link],
        // Read as one file, they would join networks on one device.
        (None, Some(Plane::Wireguard)) if links.len() > 1 => {
            return Err(CliError::Other(format!(
                "node {} has several links, each with a file of its own: name one with --link: {}",
                args.node,
                names(&links)
            )));
        }
        (None, _) => links,
    };
    let files = links
        .into_iter()
        .filter_map(|link| wireguard::render_setconf(&devices, link));
    part(
        Plane::Wireguard,
        "wireguard",
        files.collect::<Vec<_>>().join("\n"),
    );
    part(
        Plane::Firewall,
        "firewall",
        firewall::render_script(&firewall::compile(&intent)),
    );
    part(Plane::Bgp, "bgp", later("bgp"));
    part(Plane::Ovn, "ovn", later("ovn"));
    global.print(&parts, &text)?;
    Ok(ExitCode::SUCCESS)
}
