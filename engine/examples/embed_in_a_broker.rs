//! What a broker does with the engine: a session, a subscription, a durable publish, a delivery, an acknowledgement, a restart.
//!
//! `cargo run -p forebay-engine --example embed_in_a_broker [folder]`

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use forebay_engine::delivery::AttachOptions;
use forebay_engine::event::{
    AckOutcome, ClientDisconnected, DisconnectReason, Event, Published, SessionOpened, Subscribed, SubscriptionOptions,
};
use forebay_engine::{Engine, EngineOptions, Message, QoS};

/// A broker has a runtime; here the thread itself waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

fn opened(client: &str, epoch: u64, resumed: bool) -> Event {
    Event::SessionOpened(SessionOpened {
        client: client.into(),
        epoch,
        resumed,
        expiry_s: 3600,
        will: None,
        username: "".into(),
        peer: "".into(),
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("forebay-embedded"), Into::into);
    let (engine, report) = Engine::open(EngineOptions::new(&dir))?;
    println!("{}: state from {:?}, {} records replayed", dir.display(), report.state, report.replayed);

    // CONNECT: the session is a record; CONNACK may be sent once it is applied.
    let client = "sensor";
    let epoch = engine.next_epoch();
    let resumed = engine.session(client).is_some();
    let appended = engine.append(&[opened(client, epoch, resumed)])?;
    block_on(engine.applied(appended.last))?;
    let mut mailbox = engine.attach(&AttachOptions { client: client.into(), epoch, window: 20, in_flight: vec![] });

    // SUBSCRIBE: SUBACK may be sent once it is applied.
    let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
    let subscribed = Subscribed { client: client.into(), epoch, filter: "orders/#".into(), options, by_proxy: false };
    let appended = engine.append(&[Event::Subscribed(subscribed)])?;
    block_on(engine.applied(appended.last))?;

    // PUBLISH: PUBACK may be sent once it is durable.
    let message =
        Message { topic: "orders/7".into(), payload: "a book".into(), qos: QoS::AtLeastOnce, ..Message::default() };
    if engine.wants(&message) {
        let appended = engine.append(&[Event::Published(Published { message, packet_id: None, epoch: 0 })])?;
        block_on(engine.durable(appended.last))?;
        println!("durable: {}", engine.msgid(appended.first, appended.first_time_us));
    }

    // To the subscriber, and its PUBACK.
    block_on(mailbox.ready());
    let mut deliveries = Vec::new();
    mailbox.take(10, &mut deliveries);
    for delivery in &deliveries {
        println!("delivered: {} {:?}", delivery.message.topic, delivery.message.payload);
        mailbox.settle(&[(delivery.lsn, None, AckOutcome::Acknowledged)]);
    }

    // The connection ends; its session stays for an hour.
    let positions = mailbox.positions();
    drop(mailbox);
    engine.append(&[Event::ClientDisconnected(ClientDisconnected {
        client: client.into(),
        epoch,
        reason: DisconnectReason::Normal,
        superseded: false,
        cancel_will: true,
        expiry_s: None,
        positions,
    })])?;
    engine.close();
    Ok(())
}
