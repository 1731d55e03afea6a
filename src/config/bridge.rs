//! The editor of a bridge: a fragment that a person could have written, in a file of its own.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::diag::Diagnostics;
use super::load::load_fleet_with;
use crate::model::routing::{Bridge, Export};
use crate::model::{Fleet, Name};

/// The first line of a fragment that may be replaced and removed by command.
const MARK: &str = "# A bridge, by `sdwand peer bridge`; the same file belongs on every host of the site.";

/// Why there is no draft, or nothing to remove.
#[derive(Debug, thiserror::Error)]
pub enum BridgeEditError {
    /// With the draft, the fleet is bad; or it is bad already.
    #[error("the fleet would be bad")]
    Fleet(#[from] Diagnostics),
    /// There is no such network.
    #[error("the fleet has no network {0}: it has {1}")]
    Network(Name, String),
    /// The name is too long.
    #[error("{0:?} is no name for a bridge: give one with --name")]
    Name(String),
    /// Another file has it.
    #[error("bridge {name} leads peer {peer} into network {network} already: {file} has it, edit it there")]
    Elsewhere {
        /// What it is called.
        name: Name,
        /// With whom.
        peer: Name,
        /// Into which network.
        network: Name,
        /// Which file.
        file: String,
    },
    /// A person has written it.
    #[error("{} wasn't written by `sdwand peer bridge`: edit it, or remove it by hand", .0.display())]
    Foreign(PathBuf),
    /// It can't be read.
    #[error("can't read {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A fragment that is about to be written, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Where.
    pub path: PathBuf,
    /// What; none where it is removed.
    pub text: Option<String>,
    /// Whether the file is so already.
    pub is_unchanged: bool,
    /// What the fleet says with it.
    pub fleet: Fleet,
}

/// What a bridge is called, where nobody says: `<network>-<peer>`.
///
/// # Errors
/// That is too long for a name.
pub fn default_name(network: &Name, peer: &Name) -> Result<Name, BridgeEditError> {
    let text = format!("{network}-{peer}");
    Name::new(&text).map_err(|_| BridgeEditError::Name(text))
}

/// The file of a bridge: `50-bridge-<name>.toml`.
#[must_use]
pub fn file_of(folder: &Path, name: &Name) -> PathBuf {
    folder.join(format!("50-bridge-{name}.toml"))
}

/// The fragment of `bridge`, and the whole fleet with it.
///
/// # Errors
/// The fleet would be bad with it, another file has such a bridge, or a person has written this file.
pub fn draft(folder: &Path, bridge: &Bridge) -> Result<Draft, BridgeEditError> {
    let path = file_of(folder, &bridge.name);
    let before = existing(&path)?;
    let now = super::load_fleet(folder)?.fleet;
    if !now.networks.contains_key(&bridge.network) {
        let all: Vec<String> = now.networks.keys().map(ToString::to_string).collect();
        return Err(BridgeEditError::Network(bridge.network.clone(), all.join(", ")));
    }
    let is_own = |other: &Bridge| before.is_some() && other.name == bridge.name;
    let other = now
        .bridges
        .values()
        .find(|other| leads(other, bridge) && !is_own(other));
    if let Some(other) = other {
        return Err(BridgeEditError::Elsewhere {
            name: other.name.clone(),
            peer: bridge.peer.clone(),
            network: bridge.network.clone(),
            file: whose(folder, &other.name),
        });
    }
    let text = render(bridge);
    let fleet = load_fleet_with(folder, &path, Some(&text))?.fleet;
    Ok(Draft {
        is_unchanged: before.as_deref() == Some(text.as_str()),
        text: Some(text),
        path,
        fleet,
    })
}

/// The removal of a peer's bridge into a network, or of the one with this name; unchanged where there is none.
///
/// # Errors
/// A person has written it, or the fleet would be bad without it.
pub fn removal(
    folder: &Path,
    peer: &Name,
    network: &Name,
    name: Option<&Name>,
) -> Result<Draft, BridgeEditError> {
    let fleet = super::load_fleet(folder)?.fleet;
    let found = fleet.bridges.values().find(|bridge| {
        bridge.peer == *peer && bridge.network == *network && name.is_none_or(|name| *name == bridge.name)
    });
    let name = match (found, name) {
        (Some(bridge), _) => bridge.name.clone(),
        (None, Some(name)) => name.clone(),
        (None, None) => default_name(network, peer)?,
    };
    let path = file_of(folder, &name);
    let before = existing(&path)?;
    if found.is_some() && before.is_none() {
        return Err(BridgeEditError::Elsewhere {
            file: whose(folder, &name),
            name,
            peer: peer.clone(),
            network: network.clone(),
        });
    }
    let fleet = load_fleet_with(folder, &path, None)?.fleet;
    Ok(Draft {
        path,
        text: None,
        is_unchanged: before.is_none(),
        fleet,
    })
}

fn leads(other: &Bridge, bridge: &Bridge) -> bool {
    other.peer == bridge.peer && other.network == bridge.network
}

/// What the file says now, if it is one that a command has written.
fn existing(path: &Path) -> Result<Option<String>, BridgeEditError> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(Some(text)),
        Ok(_) => Err(BridgeEditError::Foreign(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BridgeEditError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The file with a bridge of this name, for an operator's eyes.
fn whose(folder: &Path, name: &Name) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let has = |path: &PathBuf| {
        super::is_fragment(path)
            && std::fs::read_to_string(path)
                .is_ok_and(|text| text.contains("[[bridges]]") && text.contains(&format!("\"{name}\"")))
    };
    let found = paths.into_iter().find(has);
    found.map_or_else(
        || "another fragment".to_owned(),
        |path| path.display().to_string(),
    )
}

fn render(bridge: &Bridge) -> String {
    let nets = |nets: &[IpNet]| -> String {
        let quoted: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
        quoted.join(", ")
    };
    let gateways: Vec<String> = bridge.gateways.iter().map(|node| format!("\"{node}\"")).collect();
    let exports: Vec<String> = bridge
        .export
        .iter()
        .map(|export| match export {
            Export::Prefix(net) => format!("\"{net}\""),
            Export::Vip(name) => format!("{{ vip = \"{name}\" }}"),
        })
        .collect();
    let remote = if bridge.remote_network == bridge.network {
        String::new()
    } else {
        format!("remote_network = \"{}\"\n", bridge.remote_network)
    };
    format!(
        "{MARK}\n\nformat = 1\n\n[[bridges]]\nname     = \"{}\"\npeer     = \"{}\"\nnetwork  = \"{}\"\n{remote}gateways = [{}]\nimport   = [{}]\nexport   = [{}]\n",
        bridge.name,
        bridge.peer,
        bridge.network,
        gateways.join(", "),
        nets(&bridge.import),
        exports.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = "format = 1\n[site]\nname = \"site-a\"\nprefix = \"fd00:0:1::/48\"\ngateways = [\"hub-1\"]\n\
            [[nodes]]\nname = \"hub-1\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoints = [\"203.0.113.5\"]\n\
            [[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\nmembers = [ { node = \"hub-1\", role = \"hub\" } ]\n\
            [[networks.virtual_ips]]\nname = \"web\"\naddress = \"::100\"\nholders = [\"hub-1\"]\n";
        std::fs::write(folder.path().join("00-site.toml"), text).unwrap();
        folder
    }

    fn bridge(import: &str) -> Bridge {
        Bridge {
            name: name("prod-site-b"),
            peer: name("site-b"),
            network: name("prod"),
            remote_network: name("dev"),
            gateways: vec![name("hub-1")],
            import: vec![import.parse().unwrap()],
            export: vec![
                Export::Prefix("fd00:0:1:1::/64".parse().unwrap()),
                Export::Vip(name("web")),
            ],
            enabled: true,
        }
    }

    #[test]
    fn what_is_drafted_is_read_back_and_the_same_call_twice_changes_nothing() {
        let folder = folder();
        let made = draft(folder.path(), &bridge("fd00:0:2::/48")).unwrap();
        assert!(
            !made.is_unchanged && !made.path.exists(),
            "a draft writes nothing"
        );
        assert_eq!(made.fleet.bridges[&name("prod-site-b")], bridge("fd00:0:2::/48"));
        std::fs::write(&made.path, made.text.as_ref().unwrap()).unwrap();
        assert_eq!(super::super::load_fleet(folder.path()).unwrap().fleet, made.fleet);
        // What names the bridge elsewhere doesn't stand in the way of saying it again.
        let offer = "format = 1\n[[offers]]\nname = \"web\"\nbridge = \"prod-site-b\"\nvip = \"web\"\nprotocol = \"tcp\"\nports = [\"80\"]\n";
        std::fs::write(folder.path().join("60-offer.toml"), offer).unwrap();
        assert!(
            draft(folder.path(), &bridge("fd00:0:2::/48"))
                .unwrap()
                .is_unchanged
        );
        std::fs::remove_file(folder.path().join("60-offer.toml")).unwrap();
        assert!(
            draft(folder.path(), &bridge("fd00:0:2::/48"))
                .unwrap()
                .is_unchanged
        );
        assert!(
            !draft(folder.path(), &bridge("fd00:0:2:1::/64"))
                .unwrap()
                .is_unchanged
        );
        let gone = removal(folder.path(), &name("site-b"), &name("prod"), None).unwrap();
        assert_eq!((&gone.path, gone.is_unchanged), (&made.path, false));
        assert!(gone.fleet.bridges.is_empty());
        std::fs::remove_file(&gone.path).unwrap();
        assert!(
            removal(folder.path(), &name("site-b"), &name("prod"), None)
                .unwrap()
                .is_unchanged
        );
    }

    #[test]
    fn what_a_person_has_written_stays() {
        let folder = folder();
        let made = draft(folder.path(), &bridge("fd00:0:2::/48")).unwrap();
        let text = made.text.unwrap().replace(MARK, "# by hand");
        let own = folder.path().join("70-mine.toml");
        std::fs::write(&own, &text).unwrap();
        let refused = |outcome: Result<Draft, BridgeEditError>| outcome.unwrap_err().to_string();
        let mut other = bridge("fd00:0:2::/48");
        other.name = name("another");
        assert!(refused(draft(folder.path(), &other)).contains("70-mine.toml"));
        let removed = refused(removal(folder.path(), &name("site-b"), &name("prod"), None));
        assert!(removed.contains("70-mine.toml"), "{removed}");
        std::fs::rename(&own, &made.path).unwrap();
        assert!(matches!(
            draft(folder.path(), &bridge("fd00:0:2::/48")),
            Err(BridgeEditError::Foreign(_))
        ));
        assert_eq!(std::fs::read_to_string(&made.path).unwrap(), text);
    }

    #[test]
    fn a_fleet_that_would_be_bad_is_no_draft() {
        let folder = folder();
        let mut bad = bridge("fd00:0:2::/48");
        bad.gateways = vec![name("nobody")];
        assert!(matches!(
            draft(folder.path(), &bad),
            Err(BridgeEditError::Fleet(_))
        ));
        bad = bridge("fd00:0:2::/48");
        bad.network = name("prud");
        let error = draft(folder.path(), &bad).unwrap_err().to_string();
        assert_eq!(error, "the fleet has no network prud: it has prod");
        assert!(default_name(&name(&"x".repeat(40)), &name("site-with-a-name")).is_err());
    }
}
