//! Commands that ask the running server: `status`, `sink …`, `dlq …`.

use crate::admin::client::Client;
use crate::admin::status::{DeadLetterRow, Done, SinkStatus, Status};
use crate::cli::log::print_rows;
use crate::cli::{DlqCommand, Options, SinkCommand, check};
use crate::exit::{Exit, Failure};
use crate::out;

/// The server on the data folder.
///
/// # Errors
/// Where there is none.
pub fn server(options: &Options) -> Result<Client, Failure> {
    let settings = check::settings(options)?.settings;
    Client::of_running_server(&settings)?.ok_or_else(|| {
        let folder = settings.data.display();
        Failure::new(Exit::NoServer, format!(
            "no server runs on the data folder {folder}: start it with `forebay run`, or name its folder (`--data`, the setting `data`)"
        ))
    })
}

/// Runs `forebay status`.
///
/// # Errors
/// Where no server answers.
pub fn status(options: &Options) -> Result<(), Failure> {
    let status: Status = server(options)?.get("/status")?;
    print_rows(&[status], options.json);
    Ok(())
}

/// Runs `forebay sink …`.
///
/// # Errors
/// Where no server answers, or there is no such sink.
pub fn sink(options: &Options, what: &SinkCommand) -> Result<(), Failure> {
    let server = server(options)?;
    match what {
        SinkCommand::Ls => print_rows(&server.get::<Vec<SinkStatus>>("/sinks")?, options.json),
        SinkCommand::Pause { sink } => {
            print_rows(&[server.post::<Done>(&["sinks", sink, "pause"], &())?], options.json)
        }
        SinkCommand::Resume { sink } => {
            print_rows(&[server.post::<Done>(&["sinks", sink, "resume"], &())?], options.json);
        }
        SinkCommand::Reset { sink, to } => {
            print_rows(&[server.post::<Done>(&["sinks", sink, "reset"], to)?], options.json);
        }
    }
    Ok(())
}

/// Runs `forebay dlq …`.
///
/// # Errors
/// Where no server answers, or there is no such sink or dead letter.
pub fn dlq(options: &Options, what: &DlqCommand) -> Result<(), Failure> {
    let server = server(options)?;
    match what {
        DlqCommand::Ls { sink: None } => {
            for sink in server.get::<Vec<SinkStatus>>("/sinks")? {
                if options.json {
                    let row = serde_json::json!({ "sink": sink.name, "dead_letters": sink.dead_letters });
                    out::print(&out::json(&row.to_string()));
                } else {
                    out::print(&out::lines(&format!("{}  {} dead letters", sink.name, sink.dead_letters)));
                }
            }
        }
        DlqCommand::Ls { sink: Some(sink) } => {
            print_rows(&server.get_path::<Vec<DeadLetterRow>>(&["sinks", sink, "dead"])?, options.json);
        }
        DlqCommand::Show { sink, id } => {
            let letter: DeadLetterRow = server.get_path(&["sinks", sink, "dead", &id.to_string()])?;
            if options.json {
                print_rows(&[letter], true);
            } else {
                out::print(&out::lines(&format!("{letter}\n{}", letter.detail)));
            }
        }
        DlqCommand::Replay { sink, ids } => {
            print_rows(&[server.post::<Done>(&["sinks", sink, "dead", "replay"], ids)?], options.json);
        }
        DlqCommand::Drop { sink, ids } => {
            print_rows(&[server.post::<Done>(&["sinks", sink, "dead", "drop"], ids)?], options.json);
        }
    }
    Ok(())
}
