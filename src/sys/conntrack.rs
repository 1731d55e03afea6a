//! Tracked connections through the `conntrack` tool: the entries of one zone, and the deletion of entries.
//!
//! (conntrack 1.4.7: `--load-file -` takes one deletion per line and goes on where an entry is already gone.)

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::sys::exec::{self, ExecError, Output, Run};

/// The original direction of a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Flow {
    /// Its zone.
    pub zone: u16,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Who began.
    pub source: IpAddr,
    /// With whom.
    pub destination: IpAddr,
    /// What tells it apart from others between the two.
    pub detail: FlowDetail,
    /// Its mark.
    pub mark: u32,
    /// Who answers, where addresses, ports or zones are translated.
    pub translated: Option<Translated>,
}

/// Where the answers of a translated connection come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Translated {
    /// The zone of answers.
    pub zone: u16,
    /// Who answers.
    pub source: IpAddr,
    /// From which port; 0 without ports.
    pub port: u16,
}

/// What tells a connection apart from others of its protocol between the same addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowDetail {
    /// Ports.
    Ports {
        /// Of the source.
        source: u16,
        /// Of the destination.
        destination: u16,
    },
    /// An ICMP or ICMPv6 query.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier.
        id: u16,
    },
    /// Nothing that we know of.
    None,
}

/// The `conntrack` tool.
#[derive(Clone, Debug)]
pub struct Conntrack {
    timeout: Duration,
}

/// Why conntrack did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// conntrack didn't run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// conntrack or the kernel refused.
    #[error("conntrack refused: {0}")]
    Refused(String),
    /// A line that isn't a connection.
    #[error("conntrack printed what isn't a connection: {0:?}")]
    Line(String),
}

impl ConntrackError {
    /// Whether the same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Exec(error) => error.is_retryable(),
            Self::Refused(_) => true,
            Self::Line(_) => false,
        }
    }
}

/// What conntrack 1.4.7 says, and ends with, where a connection ends by itself after it was found and before it is deleted.
const OVERTAKEN: &str = "such conntrack doesn't exist";

/// How much of a listing is read, in bytes: some four million connections.
const LISTING_LIMIT: usize = 1024 * 1024 * 1024;

impl Default for Conntrack {
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

impl Conntrack {
    /// A tool whose runs take at most `timeout` each.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// The connections of these zones, of both families. Zone 0 is that of everything without a zone. With `translated`
    /// also those that are in one of the zones in the direction of answers only.
    ///
    /// A listing takes the kernel as long as its table is large, however little is in it: there is one for all zones.
    ///
    /// # Errors
    /// conntrack isn't installed, failed, or printed what can't be read.
    pub async fn list(&self, zones: &BTreeSet<u16>, translated: bool) -> Result<Vec<Flow>, ConntrackError> {
        // The kernel filters by the zone of the first direction; a mapped connection has its network's on the way back only.
        let one = zones.iter().next().filter(|_| zones.len() == 1 && !translated);
        let one = one.map(ToString::to_string);
        let list = async |family: &str| {
            let mut args = vec!["-L", "-f", family, "-o", "extended"];
            args.extend(one.iter().flat_map(|zone| ["-w", zone.as_str()]));
            self.conntrack(&args, None).await
        };
        let (v4, v6) = tokio::try_join!(list("ipv4"), list("ipv6"))?;
        let mut flows = Vec::new();
        for output in [v4, v6] {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let flow = decode_line(line).ok_or_else(|| ConntrackError::Line(line.to_owned()))?;
                // The tool asks the kernel for one zone; a kernel that can't filter gives all.
                let answered =
                    translated && flow.translated.is_some_and(|answer| zones.contains(&answer.zone));
                if zones.contains(&flow.zone) || answered {
                    flows.push(flow);
                }
            }
        }
        Ok(flows)
    }

    /// Deletes connections; those that are already gone are no error.
    ///
    /// # Errors
    /// conntrack isn't installed or failed; some may be deleted then.
    pub async fn delete(&self, flows: &[Flow]) -> Result<(), ConntrackError> {
        if flows.is_empty() {
            return Ok(());
        }
        let commands = encode_deletions(flows);
        // Each time it is overtaken, one is gone.
        for _ in flows {
            match self.conntrack(&["--load-file", "-"], Some(&commands)).await {
                Err(ConntrackError::Refused(text)) if text.contains(OVERTAKEN) => {}
                done => return done.map(drop),
            }
        }
        Ok(())
    }

    async fn conntrack(&self, args: &[&str], stdin: Option<&str>) -> Result<Output, ConntrackError> {
        let output = exec::run(Run {
            program: "conntrack",
            args,
            stdin: stdin.map(str::as_bytes),
            timeout: self.timeout,
            stdout_limit: LISTING_LIMIT,
        })
        .await?;
        if output.success() {
            Ok(output)
        } else {
            Err(ConntrackError::Refused(output.stderr.trim().to_owned()))
        }
    }
}

/// Reads one line of `conntrack -L -o extended`; none if it isn't a connection.
fn decode_line(line: &str) -> Option<Flow> {
    let mut words = line.split_whitespace();
    let (_family, _number, _protocol) = (words.next()?, words.next()?, words.next()?);
    let protocol = words.next()?.parse().ok()?;
    // Each key appears once in each direction; the original one comes first.
    let first = |key: &str| {
        line.split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| first(key).and_then(|text| text.parse::<u16>().ok());
    let byte = |key: &str| first(key).and_then(|text| text.parse::<u8>().ok());
    let detail = match (number("sport"), number("dport"), byte("type"), byte("code")) {
        (Some(source), Some(destination), _, _) => FlowDetail::Ports { source, destination },
        (_, _, Some(kind), Some(code)) => FlowDetail::Icmp {
            kind,
            code,
            id: number("id").unwrap_or(0),
        },
        _ => FlowDetail::None,
    };
    let last = |key: &str| {
        let mut words = line.split_whitespace().rev();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let both = number("zone");
    let zone = both.or_else(|| number("zone-orig")).unwrap_or(0);
    let destination: IpAddr = first("dst")?.parse().ok()?;
    let answer = Translated {
        zone: both.or_else(|| number("zone-reply")).unwrap_or(0),
        source: last("src")?.parse().ok()?,
        port: last("sport").and_then(|text| text.parse().ok()).unwrap_or(0),
    };
    let mirrored = Translated {
        zone,
        source: destination,
        port: match detail {
            FlowDetail::Ports { destination, .. } => destination,
            FlowDetail::Icmp { .. } | FlowDetail::None => 0,
        },
    };
    Some(Flow {
        zone,
        protocol,
        source: first("src")?.parse().ok()?,
        destination,
        detail,
        mark: first("mark").and_then(|text| text.parse().ok()).unwrap_or(0),
        translated: (answer != mirrored).then_some(answer),
    })
}

/// The lines by which `conntrack --load-file` deletes connections.
fn encode_deletions(flows: &[Flow]) -> String {
    let mut text = String::new();
    for flow in flows {
        let family = if flow.source.is_ipv4() { "ipv4" } else { "ipv6" };
        // The options of a protocol come with its name; others have none.
        let protocol = match flow.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            33 => "dccp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            136 => "udplite".to_owned(),
            other => other.to_string(),
        };
        let named = protocol.parse::<u8>().is_err();
        let _ = write!(
            text,
            "-D -f {family} -w {} -p {protocol} -s {} -d {}",
            flow.zone, flow.source, flow.destination
        );
        let _ = match flow.detail {
            // What the kernel doesn't track by port is listed with ports 0, and not found by them.
            FlowDetail::Ports {
                source: 0,
                destination: 0,
            } => Ok(()),
            FlowDetail::Ports { source, destination } if named => {
                write!(text, " --sport {source} --dport {destination}")
            }
            FlowDetail::Icmp { kind, code, id } if named => {
                let p = &protocol;
                write!(text, " --{p}-type {kind} --{p}-code {code} --{p}-id {id}")
            }
            FlowDetail::Ports { .. } | FlowDetail::Icmp { .. } | FlowDetail::None => Ok(()),
        };
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_conntrack() {
        let tcp = "ipv4     2 tcp      6 599 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 mark=0 zone=5 use=1";
        let flow = decode_line(tcp).unwrap();
        assert_eq!(
            flow,
            Flow {
                zone: 5,
                protocol: 6,
                source: "10.0.0.1".parse().unwrap(),
                destination: "10.0.0.2".parse().unwrap(),
                detail: FlowDetail::Ports {
                    source: 1000,
                    destination: 80
                },
                mark: 0,
                translated: None,
            }
        );
        let mapped = "ipv4     2 tcp      6 299 ESTABLISHED src=198.51.100.7 dst=203.0.113.5 sport=4000 dport=443 src=100.64.1.3 dst=100.64.1.1 sport=8443 dport=4000 [ASSURED] mark=1073807360 zone-reply=1 use=1";
        let mapped = decode_line(mapped).unwrap();
        assert_eq!((mapped.zone, mapped.mark), (0, 0x4001_0000));
        let answer = Translated {
            zone: 1,
            source: "100.64.1.3".parse().unwrap(),
            port: 8443,
        };
        assert_eq!(mapped.translated, Some(answer));
        let ping = "ipv6     10 icmpv6   58 29 src=fd00::1 dst=fd00::2 type=128 code=0 id=7 src=fd00::2 dst=fd00::1 type=129 code=0 id=7 mark=0 use=1";
        let ping = decode_line(ping).unwrap();
        assert_eq!((ping.zone, ping.protocol), (0, 58));
        let (kind, code, id) = (128, 0, 7);
        assert_eq!(ping.detail, FlowDetail::Icmp { kind, code, id });
        assert_eq!(decode_line("conntrack v1.4.7"), None);
        // Where the kernel has no tracker for a protocol with ports.
        let dccp = "ipv4     2 dccp     33 599 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=0 src=10.0.0.2 dst=10.0.0.1 sport=0 dport=0 mark=0 zone=5 use=1";
        let dccp = decode_line(dccp).unwrap();
        assert_eq!(
            encode_deletions(&[dccp]),
            "-D -f ipv4 -w 5 -p dccp -s 10.0.0.1 -d 10.0.0.2\n"
        );
        assert_eq!(
            encode_deletions(&[flow, ping]),
            "-D -f ipv4 -w 5 -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 80\n\
             -D -f ipv6 -w 0 -p icmpv6 -s fd00::1 -d fd00::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7\n"
        );
    }
}
