//! The answer as text.

use std::fmt;

use super::{End, Explanation, Hop, MappedTo, Passes, Verdict};

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.to_string();
        if self.asked == address {
            write!(f, "{address}")?;
        } else {
            write!(f, "{} {address}", self.asked)?;
        }
        if let (Some(bridge), Some(gateway)) = (&self.bridge, &self.node) {
            return write!(f, " (over bridge {bridge} of {gateway})");
        }
        match &self.node {
            Some(node) if node.as_str() != self.asked => write!(f, " ({node})"),
            Some(_) | None => Ok(()),
        }
    }
}

impl fmt::Display for MappedTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "port mapping {}: {} becomes {}",
            self.name, self.listens, self.target
        )?;
        if let Some(node) = &self.node {
            write!(f, " ({node})")?;
        }
        write!(
            f,
            ", which sees {} as the source and answers it",
            self.seen_source
        )
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = if self.live { "this host" } else { "by the fleet" };
        writeln!(f, "  {} ({origin})", self.node)?;
        for check in &self.checks {
            let word = match check.passes {
                Passes::Ok => "ok",
                Passes::Blocked => "BLOCKED",
                Passes::Unknown => "unknown",
                Passes::Note => "note",
            };
            write!(f, "    {word:<8} {:<18} {}", check.check, check.text)?;
            // What blocks is said again at the end, with its fix.
            match (&check.fix, check.passes) {
                (Some(fix), Passes::Note) => writeln!(f, "; fix: {fix}")?,
                (_, Passes::Note | Passes::Ok | Passes::Blocked | Passes::Unknown) => writeln!(f)?,
            }
        }
        Ok(())
    }
}

impl Explanation {
    /// The verdict, in one line.
    #[must_use]
    pub fn verdict_line(&self) -> String {
        let Some(blocker) = &self.blocker else {
            if let (Verdict::Allow, Some(mapping)) = (self.verdict, &self.mapping) {
                return format!("allowed by port mapping {}", mapping.name);
            }
            return match (self.verdict, &self.rule) {
                (Verdict::Allow, Some(rule)) => format!("allowed by rule {rule}"),
                (Verdict::Allow, None) if self.judged() => "allowed by the network's default".to_owned(),
                (Verdict::Allow, None) => "allowed: nothing of ours is between them".to_owned(),
                (Verdict::Deny | Verdict::Unreachable | Verdict::Unknown, _) => self.unknown_line(),
            };
        };
        let node = blocker
            .node
            .as_ref()
            .map(|node| format!("on {node}, "))
            .unwrap_or_default();
        let answer = if blocker.of_answer { "the answer, " } else { "" };
        let fix = blocker
            .fix
            .as_ref()
            .map(|fix| format!("; fix: {fix}"))
            .unwrap_or_default();
        format!("blocked: {answer}{node}{}: {}{fix}", blocker.check, blocker.text)
    }

    fn judged(&self) -> bool {
        self.hops.iter().any(|hop| hop.hook.is_some())
    }

    fn unknown_line(&self) -> String {
        let hops = self.hops.iter().chain(&self.answers);
        let mut checks = hops.flat_map(|hop| hop.checks.iter().map(move |check| (hop, check)));
        let unknown = checks.find(|(_, check)| check.passes == Passes::Unknown);
        unknown.map_or_else(
            || "unknown".to_owned(),
            |(hop, check)| {
                let fix = check
                    .fix
                    .as_ref()
                    .map(|fix| format!("; fix: {fix}"))
                    .unwrap_or_default();
                format!("unknown: on {}, {}: {}{fix}", hop.node, check.check, check.text)
            },
        )
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(network), Some(source), Some(destination)) =
            (&self.network, &self.source, &self.destination)
        {
            writeln!(f, "network {network}: {source} to {destination}, {}", self.flow)?;
        }
        if let Some(mapping) = &self.mapping {
            writeln!(f, "{mapping}")?;
        }
        for hop in &self.hops {
            write!(f, "{hop}")?;
        }
        if !self.answers.is_empty() {
            writeln!(f, "answers")?;
        }
        for hop in &self.answers {
            write!(f, "{hop}")?;
        }
        if let Some(mtu) = self.mtu {
            writeln!(f, "mtu {mtu} bytes")?;
        }
        for found in &self.disagreements {
            writeln!(
                f,
                "this host isn't as the fleet says: {}: {} here, {} in the fleet; fix: sdwand plan, sdwand apply",
                found.check, found.live, found.fleet
            )?;
        }
        writeln!(f, "{}", self.verdict_line())
    }
}
