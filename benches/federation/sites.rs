//! Sites that call the gateway: each with its own CA, and its row in the gateway's ledger.

use std::sync::Arc;

use ipnet::Ipv6Net;
use rusqlite::{Connection, params};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::peer::{Anchor, Declared, Endpoint, Peer, PeerId, Status, Trust};
use sdwand::federation::pki::{Leaf, SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::wire::{HeartbeatRequest, Said, TrustNews};
use sdwand::model::Name;

use crate::daemon::{Layout, wall};

/// A site, as the gateway knows it.
pub(crate) struct Site {
    /// Its id at the gateway.
    pub(crate) id: PeerId,
    named: SiteId,
    ca: SiteCa,
    /// What it shows when it calls.
    pub(crate) leaf: Leaf,
    /// What it shows when it is called.
    pub(crate) serves: Leaf,
}

pub(crate) struct Sites(pub(crate) Vec<Arc<Site>>);

fn name(n: usize) -> Name {
    Name::new(&format!("site-{n}")).unwrap()
}

impl Site {
    fn draw(n: usize) -> Self {
        let prefix: Ipv6Net = format!("fd01:{:x}:{:x}::/48", n >> 16, n & 0xffff)
            .parse()
            .unwrap();
        let site = SiteId::of(&name(n), prefix);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let mut random = [0; 10];
        getrandom::fill(&mut random).unwrap();
        let id = PeerId(wall().uuid(random));
        let node = Name::new("gw").unwrap();
        let subject = id.subject();
        let issue = |usage| ca.issue(&site, &node, usage, wall()).unwrap();
        Self {
            leaf: issue(Usage::Call { subject: &subject }),
            serves: issue(Usage::Serve),
            id,
            named: site,
            ca,
        }
    }

    /// What it says of itself with every beat.
    fn said(url: &str) -> Said {
        Said {
            capabilities: Some(serde_json::Map::new()),
            extension_slugs: Some(Vec::new()),
            endpoints: Some(Self::endpoints(url)),
            platform_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            data_residency: Some("JP".to_owned()),
            dialable: Some(true),
        }
    }

    /// Where it is reached.
    pub(crate) fn endpoints(url: &str) -> Vec<Endpoint> {
        vec![Endpoint {
            url: url.to_owned(),
            scope: "wan".to_owned(),
            priority: 100,
            cidr_hint: None,
        }]
    }

    /// The gateway's row of it, heard of just now.
    fn row(&self, n: usize, url: &str, status: Status) -> Peer {
        let mut declared = Declared::default();
        Self::said(url).update(&mut declared);
        Peer {
            status,
            trust: Some(Trust {
                site: self.named.clone(),
                anchors: vec![Anchor {
                    pem: self.ca.pem().to_owned(),
                    fingerprint: self.ca.fingerprint(),
                    since: wall(),
                    until: None,
                    proven: true,
                }],
                sequence: 1,
                outbound_subject: self.id.subject(),
                signed_here: Vec::new(),
            }),
            words: Some("abandon ability able about above absent".to_owned()),
            contract_version: Some(1),
            declared,
            signed_at: Some(wall()),
            last_handshake_at: Some(wall()),
            last_heartbeat_at: Some(wall()),
            ..Peer::new(self.id, name(n), url.to_owned(), wall())
        }
    }

    pub(crate) fn anchor_pem(&self) -> &str {
        self.ca.pem()
    }

    /// A beat, as `sdwand` writes it.
    pub(crate) fn beat(url: &str, sequence: u64) -> Vec<u8> {
        let request = HeartbeatRequest {
            nonce: Some(format!("{sequence:032x}")),
            sequence: Some(sequence),
            ledger_epoch: Some(1),
            audit_head: Some(format!("{sequence}:{}", "0".repeat(64))),
            trust: TrustNews {
                trust_sequence: Some(1),
                known_trust_sequence: Some(1),
                ca_bundle_pem: None,
            },
            witnessed: None,
            spawn_mode: None,
            bridges: None,
            said: Self::said(url),
        };
        serde_json::to_vec(&request).unwrap()
    }
}

/// Where site `n` is called: nobody listens there.
pub(crate) fn nowhere(n: usize) -> String {
    format!("https://127.2.{}.{}:9", n >> 8, n & 0xff)
}

impl Sites {
    pub(crate) fn draw(count: usize) -> Self {
        Self((0..count).map(|n| Arc::new(Site::draw(n))).collect())
    }

    /// Makes their rows straight in the gateway's ledger, which isn't running. `urls` are where they are called; `nowhere`
    /// for those that have none.
    pub(crate) fn write_into(&self, layout: &Layout, urls: &[String]) {
        self.write_as(layout, urls, Status::Active);
    }

    pub(crate) fn write_as(&self, layout: &Layout, urls: &[String], status: Status) {
        drop(Ledger::open(&layout.ledger(), wall()).unwrap());
        let mut connection = Connection::open(layout.ledger()).unwrap();
        let transaction = connection.transaction().unwrap();
        for (n, site) in self.0.iter().enumerate() {
            let url = urls.get(n).cloned().unwrap_or_else(|| nowhere(n));
            let row = site.row(n, &url, status);
            let doc = serde_json::to_string(&row).unwrap();
            transaction
                .execute(
                    "INSERT INTO peers (id, status, url, site, doc) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        row.id.to_string(),
                        row.status.as_str(),
                        url,
                        site.named.to_string(),
                        doc
                    ],
                )
                .unwrap();
        }
        transaction.commit().unwrap();
    }
}
