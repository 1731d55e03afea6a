//! `sdwand token …`: the tokens of operators who aren't on this host.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};
use crate::federation::operators::Permission;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token for `[api] listen`: prints it, once
    #[command(after_help = "Example:
  sdwand token issue --sub alice --permission read,invite --ttl 8h --json | jq -r .token > token
  sdwand pki show --json | jq -r .ca_pem > ca.pem
  curl --cacert ca.pem -H \"Authorization: Bearer $(cat token)\" https://localhost:8444/api/v1/system/platform/peers

Issued on the gateway, over api.sock, by whoever may open it.")]
    Issue(Issue),
    /// Tokens that aren't expired, without themselves
    #[command(after_help = "Example:
  sdwand token list --json | jq -r '.[] | select(.sub == \"alice\") | .jti'")]
    List,
    /// Revoke a token: it is refused from now on
    #[command(after_help = "Example:
  sdwand token revoke 0198c0de-0000-7000-8000-000000000001      # the id, as `token list` prints it")]
    Revoke {
        /// Its id
        jti: Uuid,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// Who is to have it, for the audit
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// What it allows: read, invite, manage; none implies another
    #[arg(long, required = true, value_delimiter = ',', value_name = "PERMISSION")]
    permission: Vec<Permission>,
    /// How long it lives, at most 12h: 90s, 30m or 8h
    #[arg(long, default_value = "1h", value_parser = seconds, value_name = "TIME")]
    ttl: u64,
}

/// `90s`, `30m`, `8h`, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let unit = text.chars().last().unwrap_or(' ');
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err("a number and s, m or h, like 8h".to_owned()),
    };
    let number = text
        .strip_suffix(unit)
        .and_then(|number| number.parse::<u64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(factor));
    seconds.ok_or_else(|| "a number and s, m or h, like 8h".to_owned())
}

pub(crate) async fn token(global: &Global, command: TokenCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    let tokens = format!("{FEDERATION}/tokens");
    match command {
        TokenCommand::Issue(asked) => {
            let body = json!({ "sub": asked.sub, "permissions": asked.permission, "ttl_seconds": asked.ttl });
            let issued = api.ask(Method::POST, &tokens, Some(body)).await?;
            let text = format!(
                "token {} for {}, until {}; it is shown this once:\n\n{}\n",
                word(&issued, "jti"),
                word(&issued, "sub"),
                word(&issued, "expires_at"),
                word(&issued, "token"),
            );
            global.print(&issued, &text)?;
        }
        TokenCommand::List => {
            let found = api.ask(Method::GET, &tokens, None).await?;
            let mut text = String::new();
            for issued in found.as_array().into_iter().flatten() {
                let state = if issued["revoked_at"].is_null() {
                    "until"
                } else {
                    "revoked, until"
                };
                let may: Vec<&str> = issued["permissions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let _ = writeln!(
                    text,
                    "{} {:<24} {state} {} {}",
                    word(issued, "jti"),
                    word(issued, "sub"),
                    word(issued, "expires_at"),
                    may.join(",")
                );
            }
            global.print(&found, if text.is_empty() { "no tokens\n" } else { &text })?;
        }
        TokenCommand::Revoke { jti } => {
            let path = format!("{tokens}/{jti}/revoke");
            let revoked = api.ask(Method::POST, &path, Some(json!({}))).await?;
            let text = format!("token {jti} of {} is revoked\n", word(&revoked, "sub"));
            global.print(&revoked, &text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_a_number_and_a_unit() {
        for (text, expected) in [("90s", 90), ("30m", 1_800), ("12h", 43_200)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for nonsense in [
            "",
            "h",
            "1",
            "-1h",
            "1.5h",
            "1d",
            "99999999999999999999h",
            "9999999999999999999m",
        ] {
            assert!(seconds(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
