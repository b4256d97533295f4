//! Clients of other makes at the real program: one story, told once, and a table of clients that each live through it.
//!
//! ```text
//!  main.rs       the table          stage.rs    the server and the ways into it
//!  stories.rs    the story          client.rs   a client as the story sees it
//!  mosquitto.rs  mosquitto_sub and mosquitto_pub, a process each
//!  hosted.rs     libraries of other languages, each in a script: paho_clients.py, mqttjs_clients.cjs
//!  rumqttc.rs    the library of this language
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod hosted;
mod mosquitto;
mod rumqttc;
mod stage;
mod stories;
#[path = "../support/mod.rs"]
mod support;

use client::Library;
use hosted::Hosted;
use mosquitto::Mosquitto;
use rumqttc::Rumqttc;
use stage::Stage;

/// All of the story, with one server.
fn live(library: &dyn Library) {
    let mut stage = Stage::start();
    stories::qos_0_1_and_2_both_ways(&stage, library);
    stories::every_way_in(&stage, library);
    stories::retained_messages(&stage, library);
    stories::wills(&stage, library);
    if library.is_5() {
        stories::delayed_wills(&stage, library);
    }
    stories::shared_subscriptions(&stage, library);
    stories::only_a_server_with_the_right_certificate(&stage, library);
    stories::sessions_over_sigkill(&mut stage, library);
}

#[test]
fn mosquitto_s_programs_with_mqtt_3_1_1() {
    live(&Mosquitto { is_5: false });
}

#[test]
fn mosquitto_s_programs_with_mqtt_5() {
    live(&Mosquitto { is_5: true });
}

#[test]
fn paho_for_python_with_mqtt_3_1_1() {
    live(&Hosted::paho(false));
}

#[test]
fn paho_for_python_with_mqtt_5() {
    live(&Hosted::paho(true));
}

#[test]
fn mqtt_js_with_mqtt_3_1_1() {
    live(&Hosted::mqtt_js(false));
}

#[test]
fn mqtt_js_with_mqtt_5() {
    live(&Hosted::mqtt_js(true));
}

#[test]
fn rumqttc_with_mqtt_3_1_1() {
    live(&Rumqttc::new(false));
}

#[test]
fn rumqttc_with_mqtt_5() {
    live(&Rumqttc::new(true));
}
