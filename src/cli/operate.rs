//! Commands about clients and messages of the running server: `client …`, `session …`, `subscription …`, `retained …`, `publish`.

use std::fmt::Display;
use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::client::{Client, query_of};
use crate::admin::rows::{
    ClientRow, Page, PublishRequest, PublishedRow, RetainedRow, SessionRow, SubscriptionRow, TopicRequest, to_hex,
};
use crate::admin::status::Done;
use crate::cli::Options;
use crate::cli::admin::server;
use crate::cli::log::print_rows;
use crate::exit::{Exit, Failure};
use crate::out;

/// Rows asked for at a time.
const ROWS: usize = 1000;
/// No server takes larger packets.
const PAYLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much of a list.
#[derive(Clone, Debug, Default, Args)]
pub struct Rows {
    /// Begins behind this one.
    #[arg(long, value_name = "NAME", default_value = "")]
    after: String,
    /// Most rows printed.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// `forebay client …`
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// All that are connected, by client id.
    Ls(Rows),
    /// One of them.
    Show {
        /// Its client id.
        client: String,
    },
    /// Ends its connection (MQTT 5 is told 0x98). Its session stays; nothing keeps it from coming back.
    Kick {
        /// Its client id.
        client: String,
    },
}

/// `forebay session …`
#[derive(Clone, Debug, Subcommand)]
pub enum SessionCommand {
    /// All, by client id.
    Ls {
        /// Only those whose client is not connected.
        #[arg(long)]
        away: bool,
        #[command(flatten)]
        rows: Rows,
    },
    /// One of them.
    Show {
        /// Its client id.
        client: String,
    },
    /// Ends it with its subscriptions and all that it is owed, and its client's connection before that. For good: it is a record in
    /// the log.
    Drop {
        /// Its client id.
        client: String,
    },
}

/// `forebay subscription …`
#[derive(Clone, Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// All, by client id and filter.
    Ls {
        /// Of this client.
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Of this topic filter, to the letter.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// Those that match this topic.
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Most rows printed.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

/// `forebay retained …`
#[derive(Clone, Debug, Subcommand)]
pub enum RetainedCommand {
    /// All, by topic, without their payloads.
    Ls {
        /// Only those whose topic matches.
        filter: Option<String>,
        #[command(flatten)]
        rows: Rows,
    },
    /// One of them with its payload.
    Show {
        /// Its topic.
        topic: String,
    },
    /// Removes it, as publishing an empty one does: rules fire, subscribers are told.
    Clear {
        /// Its topic.
        topic: String,
    },
}

/// `forebay publish`
#[derive(Clone, Debug, Args)]
pub struct Publish {
    /// The topic.
    topic: String,
    /// The payload.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    message: Option<String>,
    /// A file that is the payload; `-` is the standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// QoS that subscribers get at most, and rules see.
    #[arg(short, long, value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Retained.
    #[arg(short, long)]
    retain: bool,
    /// Expires after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    expiry: Option<u32>,
    /// Content type.
    #[arg(long, value_name = "TEXT")]
    content_type: Option<String>,
    /// Response topic.
    #[arg(long, value_name = "TOPIC")]
    response_topic: Option<String>,
    /// A user property; may stand several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    user: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Prints a list, asking for a part at a time: no answer is large however long the list is.
fn list<T: Serialize + DeserializeOwned + Display>(
    options: &Options,
    path: &str,
    values: &[(&str, &str)],
    rows: &Rows,
    head: &str,
) -> Result<(), Failure> {
    let server: Client = server(options)?;
    let (mut after, mut left) = (rows.after.clone(), rows.limit.unwrap_or(usize::MAX));
    let mut first = true;
    while left > 0 {
        let limit = left.min(ROWS).to_string();
        let mut asked = values.to_vec();
        asked.extend([("after", &*after), ("limit", &*limit)]);
        let page: Page<T> = server.get(&query_of(path, &asked))?;
        if first && !options.json && !page.rows.is_empty() {
            out::print(head);
        }
        first = false;
        print_rows(&page.rows, options.json);
        left = left.saturating_sub(page.rows.len());
        let Some(next) = page.next else { break };
        after = next;
    }
    Ok(())
}

/// Runs `forebay client …`.
///
/// # Errors
/// Where no server answers, or there is no such client.
pub fn client(options: &Options, what: &ClientCommand) -> Result<(), Failure> {
    match what {
        ClientCommand::Ls(rows) => list::<ClientRow>(options, "/clients", &[], rows, ClientRow::HEAD)?,
        ClientCommand::Show { client } => {
            show(options, server(options)?.get_path::<ClientRow>(&["clients", client])?, ClientRow::HEAD);
        }
        ClientCommand::Kick { client } => {
            print_rows(&[server(options)?.post::<Done>(&["clients", client, "kick"], &())?], options.json);
        }
    }
    Ok(())
}

/// Runs `forebay session …`.
///
/// # Errors
/// Where no server answers, or there is no such session.
pub fn session(options: &Options, what: &SessionCommand) -> Result<(), Failure> {
    match what {
        SessionCommand::Ls { away, rows } => {
            let away: &[_] = if *away { &[("away", "true")] } else { &[] };
            list::<SessionRow>(options, "/sessions", away, rows, SessionRow::HEAD)?;
        }
        SessionCommand::Show { client } => {
            show(options, server(options)?.get_path::<SessionRow>(&["sessions", client])?, SessionRow::HEAD);
        }
        SessionCommand::Drop { client } => {
            print_rows(&[server(options)?.post::<Done>(&["sessions", client, "drop"], &())?], options.json);
        }
    }
    Ok(())
}

/// Runs `forebay subscription …`.
///
/// # Errors
/// Where no server answers.
pub fn subscription(options: &Options, what: &SubscriptionCommand) -> Result<(), Failure> {
    let SubscriptionCommand::Ls { client, filter, topic, limit } = what;
    let given = [("client", client), ("filter", filter), ("topic", topic)];
    let given: Vec<_> = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let rows = Rows { limit: *limit, ..Rows::default() };
    list::<SubscriptionRow>(options, "/subscriptions", &given, &rows, SubscriptionRow::HEAD)
}

/// Runs `forebay retained …`.
///
/// # Errors
/// Where no server answers, or nothing is retained there.
pub fn retained(options: &Options, what: &RetainedCommand) -> Result<(), Failure> {
    match what {
        RetainedCommand::Ls { filter, rows } => {
            let given: Vec<_> = filter.as_deref().map(|filter| ("filter", filter)).into_iter().collect();
            list::<RetainedRow>(options, "/retained", &given, rows, RetainedRow::HEAD)?;
        }
        RetainedCommand::Show { topic } => {
            let row: RetainedRow = server(options)?.get_path(&["retained", topic])?;
            let payload = match (&row.payload, &row.payload_hex) {
                (Some(text), _) => out::lines(text).into_owned(),
                (None, Some(hex)) => format!("hexadecimal: {hex}"),
                (None, None) => String::new(),
            };
            show(options, row, RetainedRow::HEAD);
            if !options.json {
                out::print(&payload);
            }
        }
        RetainedCommand::Clear { topic } => {
            let request = TopicRequest { topic: topic.clone() };
            print_rows(&[server(options)?.post::<Done>(&["retained", "clear"], &request)?], options.json);
        }
    }
    Ok(())
}

/// The bytes of a payload, unless there are more than a packet can have.
fn payload(from: impl Read, what: impl Display) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = from.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| Failure::io(&what, &source))?;
    if bytes.len() as u64 > PAYLOAD_BYTES_MAX {
        let text = format!("{what}: a payload has at most {PAYLOAD_BYTES_MAX} bytes (`mqtt.packet_bytes_max`)");
        return Err(Failure::new(Exit::Failure, text));
    }
    Ok(bytes)
}

/// Runs `forebay publish`.
///
/// # Errors
/// Where no server answers, the payload can't be read, or the message can't be published.
pub fn publish(options: &Options, message: &Publish) -> Result<(), Failure> {
    let payload = match (&message.message, &message.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) if path.as_os_str() == "-" => payload(std::io::stdin().lock(), "the standard input")?,
        (None, Some(path)) => {
            let file = std::fs::File::open(path).map_err(|source| Failure::io(path.display(), &source))?;
            payload(file, path.display())?
        }
        (None, None) => {
            let text = "a payload is needed: --message TEXT, --file FILE, or `--message ''` for an empty one";
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    let (payload, payload_hex) = match String::from_utf8(payload) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(to_hex(bytes.as_bytes()))),
    };
    let request = PublishRequest {
        topic: message.topic.clone(),
        payload,
        payload_hex,
        qos: message.qos,
        retain: message.retain,
        expiry_s: message.expiry,
        content_type: message.content_type.clone(),
        response_topic: message.response_topic.clone(),
        user: message.user.clone(),
    };
    print_rows(&[server(options)?.post::<PublishedRow>(&["publish"], &request)?], options.json);
    Ok(())
}

fn show<T: Serialize + Display>(options: &Options, row: T, head: &str) {
    if !options.json {
        out::print(head);
    }
    print_rows(&[row], options.json);
}
