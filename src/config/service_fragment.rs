//! The editor of services: an offer or a subscription as a fragment that a person could have written, in a file of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::diag::Diagnostics;
use super::load::load_fleet_with;
use crate::model::network::{Protocol, Selector};
use crate::model::service::{Access, Offer, Subscription};
use crate::model::{Fleet, Name};

/// The first line of a fragment that may be replaced and removed by command.
const MARK: &str = "# By `sdwand service`; the same file belongs on every host of the site.";

/// What a fragment is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A service for a peer.
    Offer(Offer),
    /// A service of a peer.
    Subscription(Subscription),
}

/// Which sort of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// For a peer.
    Offer,
    /// Of a peer.
    Subscription,
}

impl Sort {
    /// As it stands in a file's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Subscription => "subscription",
        }
    }
}

/// Why there is no draft.
#[derive(Debug, thiserror::Error)]
pub enum ServiceEditError {
    /// With the draft, the fleet is bad; or it is bad already.
    #[error("the fleet would be bad")]
    Fleet(#[from] Diagnostics),
    /// Another fragment has it.
    #[error("another fragment has {sort} \"{name}\", which no command has written: edit it there")]
    Elsewhere {
        /// Which sort.
        sort: &'static str,
        /// Its name.
        name: Name,
    },
    /// A person has written the file.
    #[error("{} wasn't written by `sdwand service`: edit it, or remove it by hand", .0.display())]
    Foreign(PathBuf),
    /// The file can't be read.
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
pub struct ServiceDraft {
    /// Where.
    pub path: PathBuf,
    /// What; none where it is removed.
    pub text: Option<String>,
    /// Whether the file is so already.
    pub is_unchanged: bool,
}

/// The file of a service: `50-offer-<name>.toml`, `50-subscription-<name>.toml`.
#[must_use]
pub fn file_of(folder: &Path, sort: Sort, name: &Name) -> PathBuf {
    folder.join(format!("50-{}-{name}.toml", sort.as_str()))
}

/// The fragment of a service. The whole fleet was judged with it.
///
/// # Errors
/// The fleet would be bad with it, or a person has written such a service.
pub fn draft(folder: &Path, service: &Service) -> Result<ServiceDraft, ServiceEditError> {
    let (sort, name) = match service {
        Service::Offer(offer) => (Sort::Offer, &offer.name),
        Service::Subscription(subscription) => (Sort::Subscription, &subscription.name),
    };
    let path = file_of(folder, sort, name);
    let before = existing(&path)?;
    let without = load_fleet_with(folder, &path, None)?.fleet;
    not_elsewhere(&without, sort, name)?;
    let text = render(service);
    load_fleet_with(folder, &path, Some(&text))?;
    Ok(ServiceDraft {
        is_unchanged: before.as_deref() == Some(text.as_str()),
        text: Some(text),
        path,
    })
}

/// The removal of a service; unchanged where there is none.
///
/// # Errors
/// A person has written it, or the fleet would be bad without it.
pub fn removal(folder: &Path, sort: Sort, name: &Name) -> Result<ServiceDraft, ServiceEditError> {
    let path = file_of(folder, sort, name);
    let before = existing(&path)?;
    let without = load_fleet_with(folder, &path, None)?.fleet;
    not_elsewhere(&without, sort, name)?;
    Ok(ServiceDraft {
        path,
        text: None,
        is_unchanged: before.is_none(),
    })
}

fn not_elsewhere(without: &Fleet, sort: Sort, name: &Name) -> Result<(), ServiceEditError> {
    let is_there = match sort {
        Sort::Offer => without.offers.contains_key(name),
        Sort::Subscription => without.subscriptions.contains_key(name),
    };
    if is_there {
        let (sort, name) = (sort.as_str(), name.clone());
        return Err(ServiceEditError::Elsewhere { sort, name });
    }
    Ok(())
}

/// What the file says now, if it is one that a command has written.
fn existing(path: &Path) -> Result<Option<String>, ServiceEditError> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(MARK) => Ok(Some(text)),
        Ok(_) => Err(ServiceEditError::Foreign(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServiceEditError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn render(service: &Service) -> String {
    let table = match service {
        Service::Offer(_) => "offers",
        Service::Subscription(_) => "subscriptions",
    };
    let mut text = format!("{MARK}\n\nformat = 1\n\n[[{table}]]\n");
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<11} = {value}");
    };
    match service {
        Service::Offer(offer) => {
            line("name", &quoted(offer.name.as_str()));
            line("bridge", &quoted(offer.bridge.as_str()));
            line("vip", &quoted(offer.vip.as_str()));
            access(&mut line, &offer.access);
            if let Some(description) = &offer.description {
                line("description", &quoted(description));
            }
        }
        Service::Subscription(subscription) => {
            line("name", &quoted(subscription.name.as_str()));
            line("bridge", &quoted(subscription.bridge.as_str()));
            line("service", &quoted(subscription.service.as_str()));
            line("address", &quoted(&subscription.address.to_string()));
            access(&mut line, &subscription.access);
            line("from", &selector(&subscription.from));
        }
    }
    text
}

fn access(line: &mut impl FnMut(&str, &str), access: &Access) {
    let protocol = if access.protocol == Protocol::Udp {
        "udp"
    } else {
        "tcp"
    };
    line("protocol", &quoted(protocol));
    let ports: Vec<String> = access
        .ports
        .iter()
        .map(|range| quoted(&range.to_string()))
        .collect();
    line("ports", &format!("[{}]", ports.join(", ")));
}

fn selector(selector: &Selector) -> String {
    let (key, value) = match selector {
        Selector::Any => return quoted("any"),
        Selector::Node(name) => ("node", name.to_string()),
        Selector::Tag(name) => ("tag", name.to_string()),
        Selector::LanOf(name) => ("lan_of", name.to_string()),
        Selector::Vip(name) => ("vip", name.to_string()),
        Selector::Cidr(net) => ("cidr", net.to_string()),
        Selector::Federation(name) => ("federation", name.to_string()),
    };
    format!("{{ {key} = {} }}", quoted(&value))
}

/// A TOML string: what JSON escapes, TOML reads.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::load::load_fleet;
    use super::*;
    use crate::model::network::PortRange;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = "format = 1\n[site]\nname = \"site-a\"\nprefix = \"fd00:0:1::/48\"\ngateways = [\"hub-1\"]\n\
            [[nodes]]\nname = \"hub-1\"\npublic_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nendpoints = [\"203.0.113.5\"]\n\
            [[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\nmembers = [ { node = \"hub-1\", role = \"hub\" } ]\n\
            [[networks.virtual_ips]]\nname = \"web\"\naddress = \"::100\"\nholders = [\"hub-1\"]\n\
            [[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub-1\"]\nimport = [\"fd00:0:2:1::/64\"]\n";
        std::fs::write(folder.path().join("00-site.toml"), text).unwrap();
        folder
    }

    fn offer() -> Offer {
        Offer {
            name: name("web"),
            bridge: name("to-b"),
            vip: name("web"),
            access: Access {
                protocol: Protocol::Tcp,
                ports: [(443, 443), (8_000, 8_010)]
                    .map(|(first, last)| PortRange { first, last })
                    .to_vec(),
            },
            description: Some("pages, \"quoted\" \\ \u{1f600}".to_owned()),
        }
    }

    fn subscription(address: &str) -> Subscription {
        Subscription {
            name: name("logs"),
            bridge: name("to-b"),
            service: name("syslog"),
            address: address.parse().unwrap(),
            access: Access {
                protocol: Protocol::Udp,
                ports: vec![PortRange {
                    first: 514,
                    last: 514,
                }],
            },
            from: Selector::Node(name("hub-1")),
        }
    }

    #[test]
    fn what_is_drafted_is_read_back_and_taken_back_whole() {
        let folder = folder();
        let before = load_fleet(folder.path()).unwrap().fleet;
        for service in [
            Service::Offer(offer()),
            Service::Subscription(subscription("fd00:0:2:7::9")),
        ] {
            let made = draft(folder.path(), &service).unwrap();
            assert!(
                !made.is_unchanged && !made.path.exists(),
                "a draft writes nothing"
            );
            std::fs::write(&made.path, made.text.as_ref().unwrap()).unwrap();
            let with = load_fleet(folder.path()).unwrap().fleet;
            assert_ne!(with.networks, before.networks);
            let sort = match &service {
                Service::Offer(offer) => {
                    assert_eq!(with.offers[&offer.name], *offer);
                    Sort::Offer
                }
                Service::Subscription(subscription) => {
                    assert_eq!(with.subscriptions[&subscription.name], *subscription);
                    Sort::Subscription
                }
            };
            assert!(
                draft(folder.path(), &service).unwrap().is_unchanged,
                "the same again"
            );
            let name = if sort == Sort::Offer {
                name("web")
            } else {
                name("logs")
            };
            let gone = removal(folder.path(), sort, &name).unwrap();
            assert!(!gone.is_unchanged && gone.path == made.path);
            std::fs::remove_file(&gone.path).unwrap();
            // Down to the digest of its bytes.
            assert_eq!(load_fleet(folder.path()).unwrap().fleet, before);
            assert!(removal(folder.path(), sort, &name).unwrap().is_unchanged);
        }
    }

    #[test]
    fn a_draft_that_does_not_fit_is_refused_and_no_persons_file_is_touched() {
        let folder = folder();
        let own = Service::Subscription(subscription("fd00:0:1:1::100"));
        assert!(matches!(
            draft(folder.path(), &own),
            Err(ServiceEditError::Fleet(_))
        ));
        let good = Service::Offer(offer());
        let text = draft(folder.path(), &good).unwrap().text.unwrap();
        let path = file_of(folder.path(), Sort::Offer, &name("web"));
        std::fs::write(&path, text.replacen(MARK, "# Mine.", 1)).unwrap();
        assert!(matches!(
            draft(folder.path(), &good),
            Err(ServiceEditError::Foreign(_))
        ));
        assert!(matches!(
            removal(folder.path(), Sort::Offer, &name("web")),
            Err(ServiceEditError::Foreign(_))
        ));
        std::fs::rename(&path, folder.path().join("60-mine.toml")).unwrap();
        assert!(matches!(
            draft(folder.path(), &good),
            Err(ServiceEditError::Elsewhere { .. })
        ));
    }
}
