//! What the rules do with a message: which fire, what they would execute, and how often that may take effect at worst. Nothing is
//! connected to.

use forebay_engine::event::{
    AckOutcome, Acked, ClientConnected, ClientDisconnected, Delivered, DisconnectReason, Message, Published,
    SessionOpened, Subscribed, SubscriptionOptions, Unsubscribed,
};
use forebay_engine::{Event, Lsn, MsgId, topic};

use crate::lookup::Lookup;
use crate::registry::{DatabaseOptions, StartError, Visit, pool_of, sink_name, visit};
use crate::rule::{Action, Hook, Location, Rule, RuleSet};
use crate::runtime::plan::{Plan, applies};
use crate::sink::{AtWorst, SinkRecord};

/// What a rule does on one hook of a message's life.
#[derive(Clone, Debug)]
pub struct Explained {
    /// When it runs.
    pub hook: Hook,
    /// The sink (`redis/pool1`).
    pub sink: String,
    /// The rule's number on its hook.
    pub number: u32,
    /// Where the rule stands.
    pub at: Location,
    /// Its function, or `statements`.
    pub action: String,
    /// What it would execute, in order; empty where it does not fire or only reads.
    pub operations: Vec<Operation>,
    /// Why it stores nothing, where that is so.
    pub remark: Option<String>,
}

/// One operation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// As an operator reads it.
    pub text: String,
    /// How often it may take effect at worst.
    pub at_worst: AtWorst,
}

/// The life of a message of a client who subscribes to its topic: connected, session made, subscribed, published, delivered,
/// acknowledged, unsubscribed, disconnected; each as the rules see it. The message's publisher is that client.
#[must_use]
pub fn life(message: &Message, queue: bool, time_us: u64) -> Vec<Event> {
    let (client, topic) = (message.publisher.clone(), message.topic.clone());
    vec![
        Event::ClientConnected(ClientConnected {
            client: client.clone(),
            epoch: 1,
            username: String::new().into(),
            peer: "127.0.0.1".into(),
            protocol: 5,
            keep_alive_s: 60,
            clean_start: false,
        }),
        Event::SessionOpened(SessionOpened {
            client: client.clone(),
            epoch: 1,
            resumed: false,
            expiry_s: 3600,
            will: None,
            username: String::new().into(),
            peer: "127.0.0.1".into(),
        }),
        Event::Subscribed(Subscribed {
            client: client.clone(),
            epoch: 1,
            filter: topic.clone(),
            options: SubscriptionOptions::of_qos(message.qos),
            by_proxy: false,
        }),
        Event::Published(Published { message: message.clone(), packet_id: None, epoch: 1 }),
        Event::Delivered(Delivered { client: client.clone(), lsn: Lsn(1), time_us, topic: topic.clone() }),
        Event::Acked(Acked {
            client: client.clone(),
            lsn: Lsn(1),
            time_us,
            topic: topic.clone(),
            packet_id: None,
            outcome: AckOutcome::Acknowledged,
            queue,
            cursors: Vec::new(),
        }),
        Event::Unsubscribed(Unsubscribed { client: client.clone(), epoch: 1, filter: topic, by_proxy: false }),
        Event::ClientDisconnected(ClientDisconnected {
            client,
            epoch: 1,
            reason: DisconnectReason::Normal,
            superseded: false,
            cancel_will: true,
            expiry_s: None,
            positions: Vec::new(),
        }),
    ]
}

/// What the rules do in the [life] of this message, arrived at `time_us` (us since 1970): every rule whose topic fits, in the
/// order of that life and then as the rules run.
///
/// # Errors
/// Where a rule's pool or driver is missing.
pub fn explain(
    rules: &RuleSet,
    message: &Message,
    time_us: u64,
    options: &DatabaseOptions,
) -> Result<Vec<Explained>, StartError> {
    let queue = rules.engine_rules().queue.iter().any(|filter| topic::matches(filter, &message.topic));
    let mut explained = Vec::new();
    for event in life(message, queue, time_us) {
        let record = SinkRecord { lsn: Lsn(1), time_us, msgid: MsgId::new(time_us, 0, Lsn(1)), event };
        let mut sinks: Vec<String> = Vec::new();
        for rule in &rules.rules {
            let name = sink_name(rule.database, &rule.pool);
            if sinks.contains(&name) {
                continue;
            }
            let pool = pool_of(rules, rule)?;
            let plan = Plan::of_pool(rules, rule.database, &rule.pool, &name);
            let ask = Ask { name: &name, plan: &plan, record: &record };
            explained.extend(visit(pool, options, &rule.at, ask)?);
            sinks.push(name);
        }
    }
    Ok(explained)
}

struct Ask<'a> {
    name: &'a str,
    plan: &'a Plan,
    record: &'a SinkRecord,
}

impl Visit for Ask<'_> {
    type Out = Vec<Explained>;

    fn with<S: Lookup>(self, sink: S) -> Vec<Explained> {
        let fires: Vec<usize> = self.plan.matching(&self.record.event).map(|(index, _)| index).collect();
        let concerned = self.plan.concerned(&self.record.event);
        let idle = |index: usize, rule: &Rule| match &rule.action {
            _ if fires.contains(&index) => None,
            Action::Function(function) if rule.database.is_time_series() && applies(*function, &self.record.event) => {
                Some("stored already, by the rule before it")
            }
            _ => Some("not for this message"),
        };
        concerned.map(|(index, rule)| explain_rule(&sink, self.name, self.record, rule, idle(index, rule))).collect()
    }
}

/// `idle` is why the rule does not fire.
fn explain_rule<S: Lookup>(
    sink: &S,
    name: &str,
    record: &SinkRecord,
    rule: &Rule,
    idle: Option<&'static str>,
) -> Explained {
    let action = match &rule.action {
        Action::Function(function) => function.name().to_owned(),
        Action::Statements(_) => "statements".to_owned(),
    };
    let mut explained = Explained {
        hook: rule.hook,
        sink: name.to_owned(),
        number: rule.number,
        at: rule.at.clone(),
        action,
        operations: Vec::new(),
        remark: None,
    };
    if let Action::Function(function) = &rule.action
        && function.reads()
    {
        explained.remark = Some("reads only".to_owned());
        return explained;
    }
    if let Some(why) = idle {
        explained.remark = Some(why.to_owned());
        return explained;
    }
    let mut ops = Vec::new();
    if let Err(error) = sink.encode(record, rule, &mut ops) {
        explained.remark = Some(format!("would go to the dead letters: {error}"));
    }
    let operation = |op: &S::Op| Operation { text: sink.render(op), at_worst: sink.at_worst(op) };
    explained.operations = ops.iter().map(operation).collect();
    explained
}
