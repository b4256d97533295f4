//! SUBSCRIBE and UNSUBSCRIBE, by the client and on its behalf: what is asked, logged, applied, and only then answered.

use std::collections::HashSet;

use bytestring::ByteString;
use forebay_engine::event::{Event, Subscribed, SubscriptionOptions, Unsubscribed};
use forebay_engine::log::AppendError;
use forebay_engine::topic::{self, check_subscription};
use forebay_engine::{Engine, QoS};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::{ClientInfo, Close, Session};
use crate::codec::{Packet, SubAck, Subscribe, Unsubscribe, reason};
use crate::limits::Limit;

/// A change of subscriptions that is under way.
#[derive(Debug)]
pub(crate) struct Job {
    /// Filters to subscribe to.
    add: Vec<(ByteString, SubscriptionOptions)>,
    /// Filters to unsubscribe from.
    remove: Vec<ByteString>,
    asked_by: AskedBy,
}

#[derive(Debug)]
enum AskedBy {
    /// SUBSCRIBE or UNSUBSCRIBE: the acknowledgement to be sent.
    Client(Box<Packet>),
    /// The store, a channel or an operator.
    Proxy(Option<oneshot::Sender<()>>),
}

impl Job {
    /// A subscription on the client's behalf.
    pub(crate) fn subscribe_for(filter: ByteString, qos: QoS, done: Option<oneshot::Sender<()>>) -> Job {
        let add = vec![(filter, SubscriptionOptions::of_qos(qos))];
        Job { add, remove: Vec::new(), asked_by: AskedBy::Proxy(done) }
    }

    /// The end of a subscription on the client's behalf.
    pub(crate) fn unsubscribe_for(filter: ByteString, done: oneshot::Sender<()>) -> Job {
        Job { add: Vec::new(), remove: vec![filter], asked_by: AskedBy::Proxy(Some(done)) }
    }

    /// True where the client itself waits for the answer; its later packets wait too.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(self.asked_by, AskedBy::Client(_))
    }

    fn events(&self, info: &ClientInfo) -> Vec<Event> {
        let by_proxy = !self.is_clients();
        let (client, epoch) = (&info.client, info.epoch);
        let add = self.add.iter().map(|(filter, options)| {
            let (client, filter, options) = (client.clone(), filter.clone(), *options);
            Event::Subscribed(Subscribed { client, epoch, filter, options, by_proxy })
        });
        let remove = self.remove.iter().map(|filter| {
            Event::Unsubscribed(Unsubscribed { client: client.clone(), epoch, filter: filter.clone(), by_proxy })
        });
        add.chain(remove).collect()
    }
}

impl Session {
    pub(super) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), Close> {
        let v5 = self.info.version.is_v5();
        let mut add = Vec::new();
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut new = 0;
        for requested in subscribe.filters {
            if requested.options.no_local && topic::shared(&requested.filter).is_some() {
                return Err(Close::protocol(reason::PROTOCOL_ERROR, "a shared subscription with No Local"));
            }
            let refused = if check_subscription(&requested.filter).is_err() {
                Some(reason::TOPIC_FILTER_INVALID)
            } else if let Some((limit, code)) = self.over_limit(&requested.filter, new) {
                limit.hit();
                Some(code)
            } else if !self.gate.may_subscribe(&requested.filter) {
                if self.gate.is_first_denial() {
                    let (client, filter) = (&self.info.client, &requested.filter);
                    tracing::info!(%client, ?filter, "a subscription is not allowed; what else is not, is only counted");
                }
                Some(reason::NOT_AUTHORIZED)
            } else {
                None
            };
            codes.push(match refused {
                Some(code) if v5 => code,
                Some(_) => reason::UNSPECIFIED_ERROR,
                None => requested.options.qos.as_u8(),
            });
            if refused.is_none() {
                new += usize::from(!self.subscriptions.contains_key(&requested.filter));
                add.push((requested.filter, requested.options));
            }
        }
        let ack = SubAck { packet_id: subscribe.packet_id, codes, ..SubAck::default() };
        let asked_by = AskedBy::Client(Box::new(Packet::SubAck(ack)));
        self.jobs.push_back(Job { add, remove: Vec::new(), asked_by });
        Ok(())
    }

    /// The limit that a subscription is over, where `new` others are being added, and its reason code.
    fn over_limit(&self, filter: &ByteString, new: usize) -> Option<(Limit, u8)> {
        let limits = &self.shared.options.limits;
        if let Some(limit) = limits.topic(filter) {
            return Some((limit, reason::TOPIC_FILTER_INVALID));
        }
        let full = limits.is_full(self.subscriptions.len() + new) && !self.subscriptions.contains_key(filter);
        full.then_some((Limit::Subscriptions, reason::QUOTA_EXCEEDED))
    }

    pub(super) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let (mut remove, mut gone) = (Vec::new(), HashSet::new());
        // As so many packets one after the other: what stands twice is gone the second time.
        let codes = unsubscribe.filters.iter().map(|filter| {
            if self.subscriptions.contains_key(filter) && gone.insert(filter) {
                remove.push(filter.clone());
                reason::SUCCESS
            } else {
                reason::NO_SUBSCRIPTION_EXISTED
            }
        });
        let codes = codes.collect();
        let ack = SubAck { packet_id: unsubscribe.packet_id, codes, ..SubAck::default() };
        let asked_by = AskedBy::Client(Box::new(Packet::UnsubAck(ack)));
        self.jobs.push_back(Job { add: Vec::new(), remove, asked_by });
    }

    /// Queues a change on the client's behalf. It is not the client who asks, so his rights do not matter. A filter that can't be subscribed to is logged and dropped.
    pub(crate) fn request(&mut self, job: Job) {
        match job.add.iter().find(|(filter, _)| check_subscription(filter).is_err()) {
            Some((filter, _)) => {
                tracing::warn!(client = %self.info.client, %filter, "a proxy subscription has an invalid filter");
            }
            None => self.jobs.push_back(job),
        }
    }

    /// The work of the oldest change; it resolves when the change is in effect for the engine.
    pub(crate) fn start_job(&mut self) -> Option<BoxFuture<'static, Result<InEffect, Close>>> {
        let job = self.jobs.front()?;
        let events = job.events(&self.info);
        // A group is given what is published from here on, not what is stored.
        let own = job.add.iter().filter(|(filter, _)| topic::shared(filter).is_none());
        let filters: Vec<_> = own.map(|(filter, _)| filter.clone()).collect();
        for filter in &job.remove {
            self.shared.unsubscribe_live(filter, &self.inbox);
        }
        let (shared, client) = (self.shared.clone(), self.info.client.clone());
        let work = async move {
            for filter in &filters {
                shared.store.before_subscribe(&client, filter).await;
            }
            apply(&shared.engine, &events).await
        };
        Some(work.boxed())
    }

    /// The oldest change is in effect, or was refused: live messages follow it, and whoever asked is answered.
    pub(crate) fn finish_job(&mut self, in_effect: InEffect) {
        let Some(mut job) = self.jobs.pop_front() else { return };
        if in_effect == InEffect::NoSpace {
            tracing::warn!(client = %self.info.client, filters = job.add.len(), "subscriptions are refused: the log has no room");
            let v5 = self.info.version.is_v5();
            let code = if v5 { reason::QUOTA_EXCEEDED } else { reason::UNSPECIFIED_ERROR };
            if let AskedBy::Client(ack) = &mut job.asked_by
                && let Packet::SubAck(ack) = &mut **ack
            {
                ack.codes.iter_mut().filter(|granted| **granted < reason::UNSPECIFIED_ERROR).for_each(|c| *c = code);
            }
            job.add.clear();
        }
        for (filter, options) in job.add {
            self.shared.subscribe_live(&filter, &self.inbox, options);
            self.subscriptions.insert(filter, options);
        }
        for filter in &job.remove {
            self.subscriptions.remove(filter);
        }
        match job.asked_by {
            AskedBy::Client(ack) => self.write_answer(*ack),
            AskedBy::Proxy(Some(done)) => {
                let _ = done.send(());
            }
            AskedBy::Proxy(None) => {}
        }
    }
}

impl Session {
    /// Writes SUBACK or UNSUBACK, with the reason of the first refusal in words where the client wants it and has room for it.
    fn write_answer(&mut self, mut ack: Packet) {
        if let Packet::SubAck(suback) = &mut ack
            && self.info.version.is_v5()
            && self.info.problem_information
        {
            let refused = suback.codes.iter().copied().find(|code| *code >= reason::UNSPECIFIED_ERROR);
            suback.properties.reason_string = refused.and_then(reason::text).map(Into::into);
        }
        if !self.write(&ack)
            && let Packet::SubAck(suback) = &mut ack
        {
            suback.properties.reason_string = None;
            self.write(&ack);
        }
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InEffect {
    /// It is durable and in state.
    Yes,
    /// The log has no room: nothing of it was appended.
    NoSpace,
}

/// Appends events and waits until they are durable and state includes them. Does not wait for room on a full disk.
pub(crate) async fn apply(engine: &Engine, events: &[Event]) -> Result<InEffect, Close> {
    if events.is_empty() {
        return Ok(InEffect::Yes);
    }
    let stopped = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a session change could not be logged");
        Close::log_stopped()
    };
    let appended = loop {
        match engine.append(events) {
            Ok(appended) => break appended,
            Err(AppendError::Full { .. }) => engine.wait_room(events).await,
            Err(AppendError::NoSpace { .. }) => return Ok(InEffect::NoSpace),
            Err(error) => return Err(stopped(&error)),
        }
    };
    engine.applied(appended.last).await.map_err(|error| stopped(&error))?;
    Ok(InEffect::Yes)
}
