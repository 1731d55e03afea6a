//! `sdwand audit …`: what happened.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Api, which};
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};
use crate::federation::ledger::AuditLine;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// The last records
    #[command(after_help = "Example:
  sdwand audit tail --count 20
  sdwand audit tail --peer site-b")]
    Tail {
        /// How many
        #[arg(long, default_value_t = 50)]
        count: usize,
        /// Only this peer's, by alias or id
        #[arg(long, value_parser = which)]
        peer: Option<String>,
    },
    /// Recompute the whole chain, and compare it with what peers have seen of it
    #[command(after_help = "Example:
  sdwand audit verify

Peers keep where this audit ended when they last heard, and say so in their heartbeats: so it is found out, too, when records
were cut off or all of them written anew. Without a peer that has said so since the gateway started, only local consistency
is shown.")]
    Verify,
    /// The records as JSON lines, with what is needed to recompute the chain elsewhere
    #[command(after_help = EXPORT)]
    Export(Export),
}

const EXPORT: &str = r#"Example:
  sdwand audit export > audit.jsonl
  sdwand audit export --since 2026-11-01T00:00:00Z --peer site-b > november.jsonl

Each line is recomputed as it comes, and what that shows is said on standard error. To verify a file without sdwand:

  python3 - audit.jsonl <<'EOF'
  import hashlib, json, sys
  before = None
  for line in open(sys.argv[1]):
      r = json.loads(line)
      n = lambda i: i.to_bytes(8, "big", signed=True)
      h = hashlib.sha256(bytes.fromhex(r["previous"]) + n(r["sequence"]) + n(r["at_millis"]))
      for field in (r["kind"], r["severity"], r["peer"] or "", r["payload"]):
          h.update(n(len(field.encode())) + field.encode())
      assert h.hexdigest() == r["hash"], f"record {r['sequence']} was changed"
      assert before in (None, r["previous"]), f"a record before {r['sequence']} is missing"
      before = r["hash"]
  EOF

With --peer, records of others lie between: leave the second assertion out."#;

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// RFC 3339; from the beginning without it
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// RFC 3339; until now without it
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only this peer's, by alias or id
    #[arg(long, value_parser = which)]
    peer: Option<String>,
}

pub(crate) async fn audit(global: &Global, command: AuditCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    match command {
        AuditCommand::Tail { count, peer } => {
            let of = peer.map(|peer| format!("&peer={peer}")).unwrap_or_default();
            let path = format!("{FEDERATION}/audit?count={count}{of}");
            let answer = api.ask(Method::GET, &path, None).await?;
            let mut text = String::new();
            for record in answer["records"].as_array().into_iter().flatten() {
                let word = |key: &str| record[key].as_str().unwrap_or("-");
                let (at, kind, peer) = (word("at"), word("kind"), word("peer"));
                let _ = writeln!(text, "{at:<26} {kind:<40} {peer} {}", record["payload"]);
            }
            global.print(&answer["records"], &text)?;
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Verify => {
            let path = format!("{FEDERATION}/audit?count=0&verify=true");
            let answer = api.ask(Method::GET, &path, None).await?;
            let verified = &answer["verified"];
            let ok = verified["ok"] == true;
            let word = |key: &str| verified[key].as_str().unwrap_or("-");
            let text = if ok {
                format!(
                    "the chain is whole: {}\nthis shows {}\n",
                    word("head"),
                    word("shows")
                )
            } else {
                format!("BROKEN: {}\n", word("error"))
            };
            global.print(verified, &text)?;
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        AuditCommand::Export(asked) => export(&api, asked).await,
    }
}

async fn export(api: &Api, asked: Export) -> Result<ExitCode, CliError> {
    let query: Vec<String> = [
        ("since", &asked.since),
        ("until", &asked.until),
        ("peer", &asked.peer),
    ]
    .into_iter()
    .filter_map(|(key, value)| {
        let value = utf8_percent_encode(value.as_ref()?, NON_ALPHANUMERIC);
        Some(format!("{key}={value}"))
    })
    .collect();
    let path = format!("{FEDERATION}/audit/export?{}", query.join("&"));
    let mut chain = Chain {
        is_whole: asked.peer.is_none(),
        ..Chain::default()
    };
    let mut out = std::io::stdout();
    let mut take = |chunk: &[u8]| {
        chain.take(chunk);
        out.write_all(chunk)
    };
    api.receive(Method::GET, &path, &mut take).await?;
    out.flush()
        .map_err(|error| CliError::Other(format!("writing what was answered: {error}")))?;
    chain.end();
    if let Some(wrong) = chain.wrong {
        return Err(CliError::Other(format!("BROKEN: {wrong}")));
    }
    let rest = if chain.is_whole {
        "and each follows the one before"
    } else {
        "records of others lie between"
    };
    eprintln!(
        "{} records, up to {}: each is as it was written, {rest}",
        chain.count, chain.last
    );
    Ok(ExitCode::SUCCESS)
}

/// What is known of an export as it goes by.
#[derive(Debug, Default)]
struct Chain {
    /// Whether all records are expected.
    is_whole: bool,
    rest: Vec<u8>,
    before: Option<String>,
    count: usize,
    last: i64,
    wrong: Option<String>,
}

impl Chain {
    fn take(&mut self, chunk: &[u8]) {
        for byte in chunk {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.rest);
                self.line(&line);
            } else {
                self.rest.push(*byte);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if self.wrong.is_some() {
            return;
        }
        let Ok(line) = serde_json::from_slice::<AuditLine>(line) else {
            self.wrong = Some(format!("what follows record {} is no record", self.last));
            return;
        };
        if !line.is_sound() {
            self.wrong = Some(format!(
                "record {} was changed, or the one before it is gone",
                line.sequence
            ));
        } else if self.is_whole
            && self
                .before
                .as_ref()
                .is_some_and(|before| *before != line.previous)
        {
            self.wrong = Some(format!("a record before {} is missing", line.sequence));
        }
        (self.count, self.last) = (self.count + 1, line.sequence);
        self.before = Some(line.hash);
    }

    fn end(&mut self) {
        if !self.rest.is_empty() && self.wrong.is_none() {
            self.wrong = Some(format!("cut off behind record {}", self.last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines() -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let wall = crate::federation::moment::Moment::from_millis(1_800_000_000_000);
        let ledger = crate::federation::ledger::Ledger::open(&folder.path().join("ledger.db"), wall).unwrap();
        for n in 0..5 {
            let noted = ledger.transact(wall, |draft| {
                draft.note(crate::federation::ledger::Happening {
                    kind: "test".to_owned(),
                    severity: "low",
                    peer: None,
                    payload: json!({ "n": n, "text": "über\n\"" }),
                });
                Ok::<_, ()>(())
            });
            noted.unwrap();
        }
        let window = crate::federation::ledger::Window {
            since: crate::federation::moment::Moment::EPOCH,
            until: wall,
        };
        let lines = ledger.audit_lines(0, window, None, 3).unwrap();
        let more = ledger.audit_lines(3, window, None, 3).unwrap();
        let all = lines.iter().chain(&more);
        all.map(|line| serde_json::to_string(line).unwrap()).collect()
    }

    fn judged(lines: &[String], is_whole: bool) -> Option<String> {
        let mut chain = Chain {
            is_whole,
            ..Chain::default()
        };
        for chunk in (lines.join("\n") + "\n").as_bytes().chunks(7) {
            chain.take(chunk);
        }
        chain.end();
        chain.wrong
    }

    #[test]
    fn an_export_shows_what_was_changed_or_left_out() {
        let lines = lines();
        assert_eq!(lines.len(), 5);
        assert_eq!(judged(&lines, true), None);
        for n in 0..lines.len() {
            let mut changed = lines.clone();
            changed[n] = changed[n].replace("\\\"n\\\":", "\\\"m\\\":");
            assert!(
                judged(&changed, true).unwrap().contains("changed"),
                "{}",
                changed[n]
            );
        }
        let mut without = lines.clone();
        without.remove(2);
        assert!(judged(&without, true).unwrap().contains("missing"));
        assert_eq!(judged(&without, false), None, "others lie between");
        let mut cut = lines;
        cut.push("{".to_owned());
        assert!(judged(&cut, true).is_some());
    }
}
