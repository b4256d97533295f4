//! Publishers that go on over every break, and moments to break things at.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::client::{Event, Session};

const POLL: Duration = Duration::from_millis(20);

/// What a publisher did.
#[derive(Default)]
pub struct Published {
    pub sent: u64,
    pub acknowledged: Vec<String>,
}

/// A payload that says its QoS.
pub fn worded(publisher: u64, number: u64) -> String {
    format!("p{publisher}-q{}-{number}", qos_of(number))
}

/// A payload for databases of numbers.
pub fn numbered(publisher: u64, number: u64) -> String {
    ((publisher + 1) * 1_000_000_000 + number).to_string()
}

fn qos_of(number: u64) -> u8 {
    if number.is_multiple_of(2) { 2 } else { 1 }
}

/// How messages are published.
#[derive(Clone, Copy)]
pub struct Load {
    /// Topics are `TOPIC/NUMBER`.
    pub topic: &'static str,
    /// Messages of one publisher that wait for their acknowledgement.
    pub in_flight: usize,
    /// Between two looks at the connection.
    pub pause: Duration,
    /// Messages a second of one publisher at most.
    pub rate: u64,
    /// Of a publisher's message by its number; each is different.
    pub payload: fn(u64, u64) -> String,
}

/// What publishers are told, and tell, while they run.
struct Told {
    acknowledged: AtomicU64,
    rate: AtomicU64,
}

/// Publishers that run until they are told to stop.
pub struct Publishers {
    stop: Arc<AtomicBool>,
    told: Arc<Told>,
    threads: Vec<JoinHandle<Published>>,
}

impl Publishers {
    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.told.acknowledged.load(Ordering::Relaxed)
    }

    /// From now on so many messages a second of one publisher at most.
    pub fn set_rate(&self, rate: u64) {
        self.told.rate.store(rate, Ordering::Relaxed);
    }

    /// Has them complete what is in flight; what all of them did.
    pub fn end(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Published::default();
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.sent += one.sent;
            all.acknowledged.extend(one.acknowledged);
        }
        all
    }
}

impl Load {
    /// Starts so many publishers.
    pub fn start(self, publishers: u64, server: SocketAddr) -> Publishers {
        let (stop, told) = (Arc::<AtomicBool>::default(), self.told());
        let threads = (0..publishers).map(|n| self.counted(n, server, Arc::clone(&stop), Arc::clone(&told)));
        Publishers { threads: threads.collect(), stop, told }
    }

    /// Publishes QoS 2 and 1 in turn until `stop`, then waits until everything in flight is complete. Goes on over every break.
    pub fn publisher(self, number: u64, server: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<Published> {
        self.counted(number, server, stop, self.told())
    }

    fn told(self) -> Arc<Told> {
        Arc::new(Told { acknowledged: AtomicU64::new(0), rate: AtomicU64::new(self.rate) })
    }

    fn counted(self, number: u64, server: SocketAddr, stop: Arc<AtomicBool>, told: Arc<Told>) -> JoinHandle<Published> {
        std::thread::spawn(move || {
            let mut session = Session::new(&format!("publisher-{number}"), false);
            let mut done = Published::default();
            // Of a rate that changes, each stretch has its own share.
            let (mut rate, mut since, mut before) = (self.rate, Instant::now(), 0);
            let topic = format!("{}/{number}", self.topic);
            while !(stop.load(Ordering::Relaxed) && session.in_flight() == 0) {
                let Ok(mut connection) = session.connect(server) else {
                    std::thread::sleep(POLL);
                    continue;
                };
                loop {
                    let stopping = stop.load(Ordering::Relaxed);
                    let mut broken = false;
                    let now = told.rate.load(Ordering::Relaxed);
                    if now != rate {
                        (rate, since, before) = (now, Instant::now(), done.sent);
                    }
                    let due = u128::from(before) + u128::from(rate) * since.elapsed().as_millis() / 1000;
                    while !stopping && !broken && connection.in_flight() < self.in_flight && u128::from(done.sent) < due
                    {
                        let text = (self.payload)(number, done.sent);
                        let tag = done.sent;
                        done.sent += 1;
                        broken = connection.publish(&topic, text.as_bytes(), qos_of(tag), tag).is_err();
                    }
                    std::thread::sleep(self.pause);
                    // Acknowledgements that arrived before the connection broke count.
                    match connection.poll(POLL) {
                        Ok(events) => {
                            for event in events {
                                if let Event::Acknowledged(tag) = event {
                                    done.acknowledged.push((self.payload)(number, tag));
                                    told.acknowledged.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                        Err(_) => break,
                    }
                    if broken || stopping && connection.in_flight() == 0 {
                        break;
                    }
                }
            }
            done
        })
    }
}

/// A moment to kill at. The seed is printed: it names the moments, though not what the machine did meanwhile.
pub struct Moments(u64);

impl Moments {
    /// `salt` tells those of one seed apart.
    pub fn salted(salt: &str) -> Moments {
        let Moments(seed) = Moments::new();
        let salted = salt.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Moments(salted | 1)
    }

    pub fn new() -> Moments {
        let from_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed =
            std::env::var("FOREBAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(from_clock);
        println!("FOREBAY_TEST_SEED={seed}");
        Moments(seed | 1)
    }

    /// A time within the range, ms.
    pub fn within(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
