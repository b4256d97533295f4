//! Messages on their way to one subscriber: packet ids and how far each delivery has come.

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use forebay_engine::{Lsn, Message, QoS};

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// QoS 2: its packet id is on its way to the disk; nothing was sent.
    Recording,
    /// PUBLISH is sent or to be sent: PUBACK (QoS 1) or PUBREC (QoS 2) is awaited.
    Published,
    /// QoS 2: PUBREC came and is on its way to the disk.
    Receiving,
    /// QoS 2: PUBREL is sent or to be sent: PUBCOMP is awaited.
    Released,
}

/// A delivery that is not settled.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) lsn: Lsn,
    pub(crate) time_us: u64,
    /// Gone once PUBREC came.
    pub(crate) message: Option<Arc<Message>>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifiers: Vec<u32>,
    /// The shared subscription whose group gave it.
    pub(crate) share: Option<ByteString>,
    pub(crate) stage: Stage,
    /// Order of first sending.
    pub(crate) order: u64,
}

/// What an acknowledgement led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The delivery of this record is over; which shared subscription gave it.
    Done(Lsn, Option<ByteString>),
    /// QoS 2: PUBREC for the first time.
    Received,
    /// QoS 2: PUBREC again; PUBREL goes out again.
    Again,
    /// No delivery with this packet id is at this stage.
    Unknown,
}

/// All deliveries of a session that are not settled. It outlives the connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbound {
    map: HashMap<u16, InFlight>,
    last_id: u16,
    last_order: u64,
}

impl Outbound {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn get(&self, id: u16) -> Option<&InFlight> {
        self.map.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u16) -> Option<&mut InFlight> {
        self.map.get_mut(&id)
    }

    /// Takes a delivery in under a packet id of its own; `None` while all 65,535 are in use.
    pub(crate) fn add(&mut self, mut delivery: InFlight) -> Option<u16> {
        if self.map.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.map.contains_key(&self.last_id) {
                break;
            }
        }
        self.last_order += 1;
        delivery.order = self.last_order;
        self.map.insert(self.last_id, delivery);
        Some(self.last_id)
    }

    /// Puts a delivery back that an earlier connection has sent under `id`.
    pub(crate) fn restore(&mut self, id: u16, mut delivery: InFlight) {
        self.last_order += 1;
        delivery.order = self.last_order;
        self.last_id = self.last_id.max(id);
        self.map.insert(id, delivery);
    }

    pub(crate) fn remove(&mut self, id: u16) -> Option<InFlight> {
        self.map.remove(&id)
    }

    /// PUBACK.
    pub(crate) fn acknowledged(&mut self, id: u16) -> Step {
        match self.map.get(&id) {
            Some(d) if d.qos == QoS::AtLeastOnce && d.stage == Stage::Published => self.over(id),
            _ => Step::Unknown,
        }
    }

    fn over(&mut self, id: u16) -> Step {
        self.map.remove(&id).map_or(Step::Unknown, |delivery| Step::Done(delivery.lsn, delivery.share))
    }

    /// PUBREC; with `refused` the delivery is over.
    pub(crate) fn received(&mut self, id: u16, refused: bool) -> Step {
        let Some(delivery) = self.map.get_mut(&id) else { return Step::Unknown };
        match delivery.stage {
            Stage::Published if delivery.qos == QoS::ExactlyOnce && refused => self.over(id),
            Stage::Published if delivery.qos == QoS::ExactlyOnce => {
                delivery.stage = Stage::Receiving;
                delivery.message = None;
                Step::Received
            }
            Stage::Receiving | Stage::Released => Step::Again,
            _ => Step::Unknown,
        }
    }

    /// PUBCOMP.
    pub(crate) fn completed(&mut self, id: u16) -> Step {
        match self.map.get(&id) {
            Some(d) if d.stage == Stage::Released => self.over(id),
            _ => Step::Unknown,
        }
    }

    /// Packet ids in the order of first sending.
    pub(crate) fn in_order(&self) -> Vec<u16> {
        let mut ids: Vec<_> = self.map.iter().map(|(id, d)| (d.order, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Lets go of messages of queues, and of groups, that were given to another client while this one was away.
    pub(crate) fn revoke(&mut self, records: &[Lsn], shared: &[(Lsn, ByteString)]) {
        self.map.retain(|_, delivery| match &delivery.share {
            None => !records.contains(&delivery.lsn),
            Some(share) => !shared.iter().any(|(lsn, of)| *lsn == delivery.lsn && of == share),
        });
    }

    /// Records of all deliveries that no group gave.
    pub(crate) fn lsns(&self) -> Vec<Lsn> {
        self.map.values().filter(|d| d.share.is_none()).map(|d| d.lsn).collect()
    }

    /// Records of all deliveries that groups gave, and their shared subscriptions.
    pub(crate) fn shared(&self) -> Vec<(Lsn, ByteString)> {
        self.map.values().filter_map(|d| d.share.clone().map(|share| (d.lsn, share))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(lsn: u64, qos: QoS) -> InFlight {
        InFlight {
            lsn: Lsn(lsn),
            time_us: 1,
            message: Some(Arc::default()),
            qos,
            retain: false,
            identifiers: Vec::new(),
            share: None,
            stage: Stage::Published,
            order: 0,
        }
    }

    #[test]
    fn acknowledgements_may_come_in_any_order_and_unknown_ids_change_nothing() {
        let mut outbound = Outbound::default();
        let ids: Vec<_> = (1..=3).map(|n| outbound.add(delivery(n, QoS::AtLeastOnce)).unwrap()).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(outbound.acknowledged(3), Step::Done(Lsn(3), None));
        assert_eq!(outbound.acknowledged(3), Step::Unknown);
        assert_eq!(outbound.acknowledged(9), Step::Unknown);
        assert_eq!(outbound.received(1, false), Step::Unknown, "PUBREC for a QoS 1 delivery");
        assert_eq!(outbound.completed(1), Step::Unknown);
        assert_eq!(outbound.acknowledged(1), Step::Done(Lsn(1), None));
        assert_eq!(outbound.in_order(), [2]);
    }

    #[test]
    fn a_qos_2_delivery_ends_with_pubcomp_only() {
        let mut outbound = Outbound::default();
        let id = outbound.add(delivery(7, QoS::ExactlyOnce)).unwrap();
        assert_eq!(outbound.completed(id), Step::Unknown, "PUBCOMP before PUBREC");
        assert_eq!(outbound.received(id, false), Step::Received);
        assert!(outbound.get(id).unwrap().message.is_none());
        assert_eq!(outbound.received(id, true), Step::Again, "a refusal after PUBREC comes too late");
        outbound.get_mut(id).unwrap().stage = Stage::Released;
        assert_eq!(outbound.completed(id), Step::Done(Lsn(7), None));
        let id = outbound.add(delivery(8, QoS::ExactlyOnce)).unwrap();
        assert_eq!(outbound.received(id, true), Step::Done(Lsn(8), None));
    }

    #[test]
    fn a_record_under_way_twice_is_revoked_only_for_the_group_that_gave_it_to_another() {
        let mut outbound = Outbound::default();
        let of = |share: &str| InFlight { share: Some(share.into()), ..delivery(1, QoS::AtLeastOnce) };
        let own = outbound.add(delivery(1, QoS::AtLeastOnce)).unwrap();
        let (a, b) = (outbound.add(of("$share/a/t")).unwrap(), outbound.add(of("$share/b/t")).unwrap());
        assert_eq!((outbound.lsns(), outbound.shared().len()), (vec![Lsn(1)], 2));
        outbound.revoke(&[], &[(Lsn(1), "$share/a/t".into())]);
        assert!(outbound.get(own).is_some() && outbound.get(a).is_none());
        assert_eq!(outbound.acknowledged(b), Step::Done(Lsn(1), Some("$share/b/t".into())));
        outbound.revoke(&[Lsn(1)], &[]);
        assert!(outbound.is_empty());
    }

    #[test]
    fn packet_ids_go_round_past_those_in_use_and_never_use_0() {
        let mut outbound = Outbound::default();
        outbound.restore(u16::MAX, delivery(1, QoS::AtLeastOnce));
        outbound.restore(1, delivery(2, QoS::AtLeastOnce));
        assert_eq!(outbound.add(delivery(3, QoS::AtLeastOnce)), Some(2));
        for n in 4..=u64::from(u16::MAX) {
            assert!(outbound.add(delivery(n, QoS::AtLeastOnce)).is_some_and(|id| id != 0));
        }
        assert_eq!(outbound.add(delivery(0, QoS::AtLeastOnce)), None, "all are in use");
    }
}
