//! `explain`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::offline::facts;
use super::{CliError, Global};
use crate::api::control::{self, Answer, ControlError, Request};
use crate::config;
use crate::host::explain::Sight;
use crate::intent::Facts;
use crate::model::host::HostConfig;
use crate::model::{Agreements, Fleet, Name};
use crate::reconcile::holes::Known;
use crate::report::chain;
use crate::report::explain::{Asked, Explainer, Explanation, Flow, Verdict};

/// How long the daemon may take to say what it knows.
const PATIENCE: Duration = Duration::from_secs(10);

/// `explain`
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Where it comes from: a node, a virtual IP, an address
    #[arg(value_name = "SRC", required_unless_present = "questions")]
    source: Option<String>,
    /// Where it goes, likewise
    #[arg(value_name = "DST", required_unless_present = "questions")]
    destination: Option<String>,
    /// What is sent: icmp, tcp/PORT, udp/PORT
    #[arg(value_name = "PROTO/PORT", default_value = "icmp")]
    flow: Flow,
    /// The network, where both are in several
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    network: Option<Name>,
    /// How large the packet is, with all of its headers; without it, any way takes it
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    size: Option<u32>,
    /// From the fleet alone, for any pair of nodes, without looking at this host
    #[arg(long)]
    from_fleet: bool,
    /// Many questions, a line each: SRC DST [PROTO/PORT] [NETWORK]; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination", "flow", "network", "size"])]
    questions: Option<PathBuf>,
}

impl Explain {
    fn asked(&self) -> Result<Vec<Asked>, CliError> {
        if let Some(file) = &self.questions {
            return read_questions(file);
        }
        let (Some(source), Some(destination)) = (&self.source, &self.destination) else {
            return Err(CliError::Other("name a source and a destination".to_owned()));
        };
        Ok(vec![Asked {
            source: source.clone(),
            destination: destination.clone(),
            flow: self.flow,
            network: self.network.clone(),
            size: self.size,
        }])
    }
}

fn read_questions(file: &Path) -> Result<Vec<Asked>, CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| CliError::Other(format!("{}: {error}", file.display())))?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let questions = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    questions
        .map(|(at, line)| {
            question(line).map_err(|error| CliError::Other(format!("{}:{at}: {error}", file.display())))
        })
        .collect()
}

fn question(line: &str) -> Result<Asked, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (source, destination, flow, network) = match words.as_slice() {
        [source, destination] => (source, destination, "icmp", None),
        [source, destination, flow] => (source, destination, *flow, None),
        [source, destination, flow, network] => (source, destination, *flow, Some(*network)),
        _ => return Err("a question is SRC DST [PROTO/PORT] [NETWORK]".to_owned()),
    };
    let network = network.map(|network| Name::new(network).map_err(|error| error.to_string()));
    Ok(Asked {
        source: (*source).to_owned(),
        destination: (*destination).to_owned(),
        flow: flow.parse()?,
        network: network.transpose()?,
        size: None,
    })
}

pub(super) async fn explain(global: &Global, args: &Explain) -> Result<ExitCode, CliError> {
    let asked = args.asked()?;
    let (own, _) = config::load_host(&global.config)?;
    let fleet = config::load_fleet(&own.fleet_dir)?.fleet;
    let explanations = if args.from_fleet {
        answer(
            &mut Explainer::offline(&fleet, as_if_agreed(&own, &fleet)),
            &asked,
        )?
    } else {
        look(&own, &fleet, &asked).await?
    };
    print(global, args, &asked, &explanations)
}

/// What other sites have agreed to is known on the gateway alone.
fn as_if_agreed(own: &HostConfig, fleet: &Fleet) -> Facts {
    Facts {
        agreements: Agreements::assumed(fleet),
        ..facts(own)
    }
}

fn answer(explainer: &mut Explainer<'_>, asked: &[Asked]) -> Result<Vec<Explanation>, CliError> {
    let explanations = asked
        .iter()
        .map(|asked| explainer.explain(asked).map_err(|error| CliError::new(&error)));
    explanations.collect()
}

/// Each answer may lead to a route that wasn't looked up yet: one for the packet and one for the answer, as this host is
/// passed once on each way.
async fn look(own: &HostConfig, fleet: &Fleet, asked: &[Asked]) -> Result<Vec<Explanation>, CliError> {
    let (sight, live) = Sight::open(own, fleet, known_ways(own).await)
        .await
        .map_err(|error| CliError::new(&error))?;
    let mut explainer = Explainer::live(fleet, as_if_agreed(own, fleet), live);
    loop {
        let explanations = answer(&mut explainer, asked)?;
        let missing = explainer.missing();
        if missing.is_empty() {
            return Ok(explanations);
        }
        for (lookup, found) in sight.routes(missing).await {
            explainer.learn(lookup, found);
        }
    }
}

/// What the daemon knows of the ways to peers; why that isn't known. A daemon that is busy isn't waited for.
async fn known_ways(own: &HostConfig) -> Result<Known, String> {
    let socket = own.run_dir.join(control::SOCKET);
    match tokio::time::timeout(PATIENCE, control::ask(&socket, &Request::Ways)).await {
        Ok(Ok(Answer::Done { json, .. })) => serde_json::from_value(json).map_err(|error| error.to_string()),
        Ok(Ok(Answer::Refused { reason: text } | Answer::BadConfig { text, .. })) => {
            Err(format!("the daemon says: {text}"))
        }
        Ok(Err(ControlError::NoDaemon { .. })) => Err("no daemon runs here, which would ask".to_owned()),
        Ok(Err(error @ ControlError::Talk { .. })) => Err(chain(&error)),
        Err(_) => Err(format!(
            "the daemon is busy: no answer within {} s",
            PATIENCE.as_secs()
        )),
    }
}

fn print(
    global: &Global,
    args: &Explain,
    asked: &[Asked],
    explanations: &[Explanation],
) -> Result<ExitCode, CliError> {
    match explanations {
        [one] if args.questions.is_none() => global.print(one, &one.to_string())?,
        many => {
            let mut text = String::new();
            for (asked, explanation) in asked.iter().zip(many) {
                let Asked {
                    source,
                    destination,
                    flow,
                    ..
                } = asked;
                let _ = writeln!(
                    text,
                    "{source} {destination} {flow}: {}",
                    explanation.verdict_line()
                );
            }
            global.print(&many, &text)?;
        }
    }
    let all = explanations
        .iter()
        .all(|explanation| explanation.verdict == Verdict::Allow);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
