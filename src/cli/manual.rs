//! What a package has beside the program: `man` and `completions`, both drawn from the command line as it is parsed.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use serde_json::json;

use super::{Cli, CliError, Global};
use crate::config;

/// The title of the manual that the pages belong to.
const MANUAL: &str = "SD-WAN overlay";
/// No date, as roff has it: the pages of a version are the same whenever they are written. An empty word would be no word.
const NO_DATE: &str = "\"\"";

/// `man`
#[derive(Debug, Args)]
pub(super) struct Manual {
    /// The folder to write them to; it must be there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A page of the manual, as roff for man(7).
struct Page {
    /// `<title>.<section>`
    file: String,
    text: Vec<u8>,
}

pub(super) fn man(global: &Global, args: &Manual) -> Result<ExitCode, CliError> {
    let mut files = Vec::new();
    for page in pages()? {
        let path = args.out.join(&page.file);
        fs::write(&path, &page.text)
            .map_err(|error| CliError::Other(format!("{} can't be written: {error}", path.display())))?;
        files.push(path);
    }
    let lines: Vec<String> = files
        .iter()
        .map(|path| format!("wrote {}\n", path.display()))
        .collect();
    global.print(&json!({ "files": files }), &lines.concat())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(global: &Global, shell: clap_complete::Shell) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sdwand", &mut script);
    global.write(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Every page: one for each command, section 8, and one for each kind of document, section 5.
fn pages() -> Result<Vec<Page>, CliError> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = vec![
        document(
            "sdwand.toml",
            "a host's own configuration of sdwand",
            "/etc/sdwand/sdwand.toml says who this host is, and where its key, its state and the fleet are.",
            config::defaults::host_document(),
            "sdwand-fleet(5)",
        )?,
        document(
            "sdwand-fleet",
            "what a site's hosts are to each other",
            "/etc/sdwand/fleet.d/*.toml is the site, the same on every host: nodes, networks and their rules. Fragments \
             are merged; each host compiles its own part of it.",
            config::defaults::fleet_document(),
            "sdwand.toml(5)",
        )?,
    ];
    command_pages(&command, &mut pages)?;
    Ok(pages)
}

fn command_pages(command: &clap::Command, pages: &mut Vec<Page>) -> Result<(), CliError> {
    pages.push(command_page(command)?);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        command_pages(below, pages)?;
    }
    Ok(())
}

fn command_page(command: &clap::Command) -> Result<Page, CliError> {
    let has_commands = command.get_subcommands().any(|below| !below.is_hide_set());
    let is_root = command.get_name() == "sdwand";
    let man = Man::new(command.clone())
        .section("8")
        .date(NO_DATE)
        .source(source())
        .manual(MANUAL);
    let mut text = Vec::new();
    let mut render = || {
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if has_commands {
            man.render_subcommands_section(&mut text)?;
        }
        let mut rest = Roff::new();
        if let Some(help) = command.get_after_help() {
            rest.control("SH", ["NOTES"]);
            verbatim(&mut rest, &help.to_string());
        }
        if is_root {
            files(&mut rest);
        }
        rest.control("SH", ["SEE ALSO"]);
        rest.text([roman(if is_root {
            "sdwand.toml(5), sdwand-fleet(5), wg(8), nft(8), ip(8)"
        } else {
            "sdwand(8), sdwand.toml(5), sdwand-fleet(5)"
        })]);
        rest.to_writer(&mut text)
    };
    render().map_err(|error| unwritable(&error))?;
    Ok(Page {
        file: man.get_filename(),
        text,
    })
}

/// The page of a kind of document: all its keys, as `config defaults` prints them.
fn document(title: &str, what: &str, about: &str, defaults: &str, see: &str) -> Result<Page, CliError> {
    let mut roff = Roff::new();
    roff.control("TH", [title, "5", NO_DATE, &source(), MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{title} - {what}"))]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(about)]);
    roff.control("PP", []);
    roff.text([roman(
        "The format is TOML. What is left out has the value that stands here; lines behind # show what a key or table \
         would hold, where its absence means something else. sdwand check tells of every error, with file, line and column.",
    )]);
    roff.control("SH", ["KEYS"]);
    verbatim(&mut roff, defaults);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(format!("sdwand(8), {see}"))]);
    let mut text = Vec::new();
    roff.to_writer(&mut text).map_err(|error| unwritable(&error))?;
    Ok(Page {
        file: format!("{title}.5"),
        text,
    })
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (path, what) in [
        ("/etc/sdwand/sdwand.toml", "this host; see sdwand.toml(5)"),
        ("/etc/sdwand/fleet.d/*.toml", "the site; see sdwand-fleet(5)"),
        ("/etc/sdwand/node.key", "this host's WireGuard key, mode 0600"),
        ("/var/lib/sdwand", "the last good state"),
        ("/var/lib/sdwand-serve", "a gateway's ledger and CA"),
        ("/run/sdwand, /run/sdwand-serve", "sockets for the other commands"),
    ] {
        roff.control("TP", []);
        roff.text([roman(path)]);
        roff.text([roman(what)]);
    }
}

/// Lines as they are: no filling, nothing joined.
fn verbatim(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn source() -> String {
    format!("sdwand {}", env!("CARGO_PKG_VERSION"))
}

fn unwritable(error: &std::io::Error) -> CliError {
    CliError::Other(format!("a page of the manual can't be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(file: &str) -> String {
        let page = pages().unwrap().into_iter().find(|page| page.file == file);
        String::from_utf8(page.unwrap_or_else(|| panic!("no {file}")).text).unwrap()
    }

    #[test]
    fn every_command_has_a_page() {
        let mut files: Vec<String> = pages().unwrap().into_iter().map(|page| page.file).collect();
        let many = files.len();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), many, "no page twice");
        for file in [
            "sdwand.8",
            "sdwand-run.8",
            "sdwand-peer-propose.8",
            "sdwand.toml.5",
            "sdwand-fleet.5",
        ] {
            assert!(files.iter().any(|name| name == file), "{file} in {files:?}");
        }
        assert!(!files.iter().any(|name| name.contains("help")), "{files:?}");
    }

    #[test]
    fn a_page_has_what_its_help_has() {
        let text = page("sdwand-check.8");
        let title = format!(".TH sdwand-check 8 \"\" \"{}\" \"{MANUAL}\"\n", source());
        assert!(text.contains(&title), "{title} in {text}");
        for part in [
            "every error at once",
            "\\-\\-config",
            ".nf\nExample:\n",
            "Exit status: 0 good, 2 bad.",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn the_documents_pages_have_every_line_of_the_defaults() {
        for (file, defaults) in [
            ("sdwand.toml.5", config::defaults::host_document()),
            ("sdwand-fleet.5", config::defaults::fleet_document()),
        ] {
            let text = page(file)
                .replace("\\*(Aq", "'")
                .replace("\\-", "-")
                .replace("\\\\", "\\");
            for line in defaults.lines() {
                assert!(text.contains(line), "{line} in {file}: {text}");
            }
        }
    }
}
