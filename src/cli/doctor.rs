//! `doctor`.

use std::process::ExitCode;

use super::online::ask;
use super::{CliError, Global};
use crate::api::control::{Answer, Request};
use crate::config;
use crate::host::doctor::look;
use crate::model::host::HostConfig;
use crate::report::chain;
use crate::report::doctor::{DaemonFact, Verdict, examine};

pub(super) async fn doctor(global: &Global) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host_anyway(&global.config);
    let loaded = config::load(&global.config).map_err(|errors| {
        let first = errors.iter().next().map(|error| error.message.clone());
        format!(
            "{} errors, the first: {}",
            errors.len(),
            first.unwrap_or_default()
        )
    });
    let daemon = daemon(&own).await;
    let diagnosis = examine(&look(&global.config, &own, &loaded, daemon).await);
    global.print(&diagnosis, &diagnosis.to_string())?;
    Ok(match diagnosis.verdict {
        Verdict::Ok | Verdict::Warning => ExitCode::SUCCESS,
        Verdict::Failure => ExitCode::from(2),
    })
}

async fn daemon(own: &HostConfig) -> DaemonFact {
    match ask(&own.run_dir, &Request::Status).await {
        Ok(None) => DaemonFact::None,
        Ok(Some(answer)) => amiss(&answer),
        Err(error) => DaemonFact::Silent(chain(&error)),
    }
}

fn amiss(answer: &Answer) -> DaemonFact {
    let Answer::Done { json, .. } = answer else {
        return DaemonFact::Silent("it refuses to say how things are".to_owned());
    };
    let Some(conditions) = json["conditions"].as_array() else {
        return DaemonFact::Silent(
            "its answer says nothing of conditions: is it of another version?".to_owned(),
        );
    };
    let amiss = conditions
        .iter()
        .filter(|condition| condition["state"] != "Converged")
        .map(|condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            let network = condition["network"].as_str();
            let network = network
                .map(|network| format!(" of {network}"))
                .unwrap_or_default();
            format!("{}{network}: {}", text("plane"), text("reason"))
        });
    DaemonFact::Amiss(amiss.collect())
}
