"""A client of another make: subscribes, publishes with each QoS, and ends with 0 when everything has come back.

round_trip.py TRANSPORT VERSION PORT PATH CA CERTIFICATE KEY; an empty PATH, CA or CERTIFICATE is left out.
"""

import sys
import threading

import paho.mqtt.client as mqtt

transport, version, port, path, ca, certificate, key = sys.argv[1:8]
TOPIC = "paho/" + transport
SENT = [(qos, payload) for payload in ("small", "x" * 200000) for qos in (0, 1, 2)]

got = []
complete = threading.Event()


def on_connect(client, *rest):
    client.subscribe(TOPIC, 2)


def on_subscribe(client, *rest):
    for qos, payload in SENT:
        client.publish(TOPIC, payload, qos)


def on_message(client, userdata, message):
    got.append((message.qos, message.payload.decode()))
    if len(got) >= len(SENT):
        complete.set()


protocol = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
client = mqtt.Client(client_id="paho", transport=transport, protocol=protocol)
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
if path:
    client.ws_set_options(path=path)
if ca:
    client.tls_set(ca_certs=ca, certfile=certificate or None, keyfile=key or None)
client.connect("localhost", int(port))
client.loop_start()
in_time = complete.wait(60)
client.disconnect()
client.loop_stop()
if not in_time or sorted(got) != sorted(SENT):
    sys.exit("came back: " + str([(qos, len(payload)) for qos, payload in got]))
