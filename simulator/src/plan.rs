//! A schedule: settings and a list of operations, all made from one seed before the first of them is carried out, so that leaving
//! some of them out leaves the others as they are.

use forebay_engine::Bounds;
use forebay_engine::engine::WhenFull;

use crate::dice::Dice;

/// Clients of a schedule.
pub const CLIENTS: usize = 3;
/// Topics that are published to.
pub const TOPICS: [&str; 7] = ["a/x", "a/y", "pubsub/x", "pubsub/y", "queue/q", "queue/r", "latest/x"];
/// Filters that are subscribed to.
pub const FILTERS: [&str; 11] = [
    "a/x",
    "a/#",
    "pubsub/x",
    "pubsub/#",
    "queue/q",
    "queue/#",
    "latest/x",
    "+/x",
    "#",
    "$share/g/a/#",
    "$share/h/+/x",
];
/// The last of them are shared.
const SHARED: u64 = 2;

/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 64 << 10;

/// How an engine is set up, the same over all its restarts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A checkpoint after so many bytes of the log.
    pub checkpoint_bytes: u64,
    /// Retention: segments older than this many seconds may go.
    pub keep_s: u64,
    /// Bytes of records kept in memory.
    pub tail_cache_bytes: usize,
    /// Bytes that may wait for the disk.
    pub queue_bytes_max: usize,
    /// Deliveries handed out and not settled, per connection.
    pub window: u16,
    /// A sink holds the log.
    pub sink: bool,
    /// How much queues and sessions may be owed.
    pub bounds: Bounds,
    /// What becomes of a sink that lags while the log has no room.
    pub when_full: WhenFull,
    /// Bytes that the log may take.
    pub budget: Option<u64>,
    /// The index is the real one, on the simulated disk, and not the one that forgets.
    pub real_index: bool,
}

/// A piece of work that the engine's threads would do.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// The log's writer.
    Write,
    /// The applier, with at most so many records.
    Apply(usize),
    /// The keeper.
    Keep,
    /// The delivery worker.
    Deliver,
    /// The preparer of segments.
    Prepare,
    /// The look at room and retention.
    Trim,
    /// The indexer.
    Index,
}

/// The will of a connection.
#[derive(Clone, Copy, Debug)]
pub struct PlannedWill {
    /// Index of the topic.
    pub topic: usize,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Retained.
    pub retain: bool,
    /// Seconds from the connection's end to its publication.
    pub delay_s: u32,
}

/// Something that happens. Choices that depend on what is there are taken modulo its number.
#[derive(Clone, Debug)]
pub enum Op {
    /// A message is published.
    Publish {
        /// Index of the topic.
        topic: usize,
        /// 0, 1 or 2.
        qos: u8,
        /// Retained; with an empty payload it clears what is retained.
        retain: Option<bool>,
        /// Payload bytes.
        len: usize,
        /// Published by this client.
        by: usize,
        /// With a packet id, as a lasting session does with QoS 2.
        packet_id: Option<u16>,
        /// It expires after so many seconds.
        expiry_s: Option<u32>,
    },
    /// A publisher's packet id is free again.
    Release {
        /// Whose.
        client: usize,
        /// Which.
        packet_id: u16,
    },
    /// A client connects; one that is connected is taken over.
    Connect {
        /// Which.
        client: usize,
        /// Its old session is discarded.
        clean: bool,
        /// Its session outlives its connection by so many seconds. One that is resumed keeps its own.
        expiry_s: u32,
        /// It knows what it has in flight.
        remembers: bool,
        /// Its will.
        will: Option<PlannedWill>,
    },
    /// A client disconnects.
    Disconnect {
        /// Which.
        client: usize,
        /// It tells its positions.
        positions: bool,
        /// It is lost, and its will is to be published; else that is cancelled.
        lost: bool,
    },
    /// A subscription is made or made anew.
    Subscribe {
        /// Whose.
        client: usize,
        /// Index of the filter.
        filter: usize,
        /// Granted QoS.
        qos: u8,
        /// MQTT's retain handling.
        retain_handling: u8,
        /// Own messages are left out.
        no_local: bool,
    },
    /// A subscription is removed.
    Unsubscribe {
        /// Whose.
        client: usize,
        /// Index of the filter.
        filter: usize,
    },
    /// A client takes deliveries.
    Take {
        /// Which.
        client: usize,
        /// At most so many.
        max: usize,
    },
    /// A QoS 2 delivery is entered as sent, or its PUBREC came.
    Send {
        /// Whose.
        client: usize,
        /// Which of the held ones.
        which: u64,
    },
    /// A delivery is settled.
    Settle {
        /// Whose.
        client: usize,
        /// Which of the held ones.
        which: u64,
        /// How many from there on, in one call.
        count: usize,
    },
    /// The sink stores what it has not.
    Sink {
        /// At most so many records.
        max: usize,
        /// It tells the log its position.
        tells: bool,
    },
    /// The broker looks which wills and sessions are due.
    Due,
    /// The disk has so many free bytes from here on; `None` = enough.
    Room {
        /// Bytes.
        free: Option<u64>,
    },
    /// Time passes.
    Sleep {
        /// So many microseconds.
        us: u64,
    },
    /// One of the engine's threads runs for a moment.
    Work(Work),
    /// The engine's threads run until nothing is left to do.
    Rest,
    /// The power fails after so many changes to the disk from here on.
    PowerOff {
        /// Changes that still come through.
        after: u64,
    },
    /// A disk error strikes later.
    DiskError {
        /// What it strikes: 0 write, 1 sync, 2 folder sync, 3 read.
        what: u8,
        /// Which one from here on.
        nth: u64,
        /// The rest of the write is lost for want of room.
        short: bool,
    },
    /// The index can't be written after so many more batches.
    IndexError {
        /// Batches that still come through.
        after: u64,
    },
    /// The process dies, or the machine, and comes back.
    Crash(Crash),
    /// The engine is closed in order and opened again.
    Close,
}

/// How a crash goes.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// The machine loses power; else only the process dies.
    pub machine: bool,
    /// Decides what the disk and the index keep.
    pub seed: u64,
    /// The power fails again while opening, after so many changes.
    pub again: Option<u64>,
    /// State is compared with what comes from a checkpoint and from the log alone.
    pub compare: bool,
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its seed.
    pub seed: u64,
    /// The engine's settings.
    pub settings: Settings,
    /// What happens, with dice of its own for each.
    pub ops: Vec<(Op, u64)>,
    /// How the schedule ends.
    pub end: End,
}

/// What comes behind the last operation.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Everybody gets all that is owed.
    Drain,
    /// A bit of a file flips while nothing runs; the dice say which.
    Flip(u64),
}

impl Plan {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x5eed_f07e_ba11_0000);
        let settings = Settings {
            checkpoint_bytes: dice.pick(&[4_000, 16_000, 60_000, u64::MAX]).unwrap_or(u64::MAX),
            keep_s: dice.pick(&[0, 0, 20, 1_000_000]).unwrap_or(0),
            tail_cache_bytes: dice.pick(&[0, 2_000, 1 << 20]).unwrap_or(0),
            queue_bytes_max: dice.pick(&[20_000, 1 << 20]).unwrap_or(1 << 20),
            window: dice.pick(&[1, 4, 20]).unwrap_or(20),
            sink: dice.chance(50),
            bounds: Bounds {
                queue_messages_max: dice.pick(&[0, 0, 1, 4]).unwrap_or(0),
                queue_bytes_max: dice.pick(&[0, 0, 3_000]).unwrap_or(0),
                session_messages_max: dice.pick(&[0, 0, 2]).unwrap_or(0),
                session_bytes_max: dice.pick(&[0, 0, 6_000]).unwrap_or(0),
                idle_cursors_max: 0,
            },
            when_full: dice.pick(&[WhenFull::Block, WhenFull::DropOldest]).unwrap_or_default(),
            budget: dice.pick(&[None, None, None, Some(4 * SEGMENT_BYTES), Some(6 * SEGMENT_BYTES)]).flatten(),
            real_index: dice.chance(5),
        };
        let count = 20 + dice.below(160);
        // Groups have two members or more where many subscriptions are shared ones.
        let shared = dice.pick(&[10, 70]).unwrap_or(10);
        let mut ops = Vec::new();
        // A schedule without any client would try little.
        for client in 0..CLIENTS {
            if dice.chance(60) {
                let (expiry_s, will) = (expiry(&mut dice), will(&mut dice));
                ops.push((Op::Connect { client, clean: false, expiry_s, remembers: true, will }, dice.roll()));
                ops.push((subscribe(&mut dice, client, shared), dice.roll()));
            }
        }
        let bodies = dice.pick(&[60, 400, 4_000]).unwrap_or(60);
        while (ops.len() as u64) < count {
            let op = any_op(&mut dice, bodies, shared);
            ops.push((op, dice.roll()));
        }
        let end = if dice.chance(8) { End::Flip(dice.roll()) } else { End::Drain };
        Plan { seed, settings, ops, end }
    }
}

fn expiry(dice: &mut Dice) -> u32 {
    dice.pick(&[0, 0, 40, 3600, 3600, 3600, 3600]).unwrap_or(0)
}

fn will(dice: &mut Dice) -> Option<PlannedWill> {
    dice.chance(20).then(|| PlannedWill {
        topic: dice.below(TOPICS.len() as u64) as usize,
        qos: dice.below(3) as u8,
        retain: dice.chance(20),
        delay_s: dice.pick(&[0, 5, 100]).unwrap_or(0),
    })
}

/// `shared`: so many of a hundred subscriptions are shared ones.
fn subscribe(dice: &mut Dice, client: usize, shared: u64) -> Op {
    let (own, shared) = (FILTERS.len() as u64 - SHARED, dice.chance(shared));
    Op::Subscribe {
        client,
        filter: (if shared { own + dice.below(SHARED) } else { dice.below(own) }) as usize,
        qos: dice.pick(&[0, 1, 1, 2, 2]).unwrap_or(2),
        retain_handling: dice.below(3) as u8,
        // Of a shared one that is a protocol error.
        no_local: dice.chance(10) && !shared,
    }
}

fn any_op(dice: &mut Dice, bodies: u64, shared: u64) -> Op {
    let client = dice.below(CLIENTS as u64) as usize;
    match dice.below(1000) {
        0..240 => Op::Publish {
            topic: dice.below(TOPICS.len() as u64) as usize,
            qos: dice.below(3) as u8,
            retain: dice.chance(20).then(|| dice.chance(70)),
            len: (if dice.chance(10) { dice.below(14_000) } else { dice.below(bodies) }) as usize,
            by: client,
            packet_id: dice.chance(30).then(|| 1 + dice.below(4) as u16),
            expiry_s: dice.chance(10).then(|| dice.pick(&[1, 5, 30]).unwrap_or(1)),
        },
        240..255 => Op::Release { client, packet_id: 1 + dice.below(4) as u16 },
        255..380 => Op::Take { client, max: 1 + dice.below(6) as usize },
        380..425 => Op::Send { client, which: dice.roll() },
        425..530 => Op::Settle { client, which: dice.roll(), count: 1 + dice.below(3) as usize },
        530..580 => {
            let (expiry_s, will) = (expiry(dice), will(dice));
            Op::Connect { client, clean: dice.chance(20), expiry_s, remembers: dice.chance(60), will }
        }
        580..640 => subscribe(dice, client, shared),
        640..660 => Op::Unsubscribe { client, filter: dice.below(FILTERS.len() as u64) as usize },
        660..690 => Op::Disconnect { client, positions: dice.chance(80), lost: dice.chance(40) },
        690..740 => Op::Sink { max: 1 + dice.below(40) as usize, tells: dice.chance(70) },
        740..750 => Op::Due,
        750..770 => Op::Sleep { us: dice.pick(&[1_000, 600_000, 6_000_000, 60_000_000]).unwrap_or(1_000) },
        770..890 => Op::Work(match dice.below(13) {
            0..4 => Work::Write,
            4..7 => Work::Apply(1 + dice.below(8) as usize),
            7..9 => Work::Deliver,
            9 => Work::Keep,
            10 => Work::Prepare,
            11 => Work::Index,
            _ => Work::Trim,
        }),
        890..932 => Op::Rest,
        932..940 => Op::Room { free: dice.pick(&[None, Some(0), Some(2_000), Some(40_000), Some(150_000)]).flatten() },
        940..958 => Op::PowerOff { after: dice.below(60) },
        958..966 => Op::DiskError { what: dice.below(4) as u8, nth: 1 + dice.below(12), short: dice.chance(30) },
        966..969 => Op::IndexError { after: dice.below(4) },
        969..990 => Op::Crash(crash(dice)),
        _ => Op::Close,
    }
}

/// A crash as the dice fall.
pub fn crash(dice: &mut Dice) -> Crash {
    Crash {
        machine: dice.chance(80),
        seed: dice.roll(),
        again: dice.chance(30).then(|| dice.below(40)),
        compare: dice.chance(40),
    }
}
