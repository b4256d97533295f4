"""Clients of Paho for Python. paho_clients.py VERSION; what it reads and writes is told in hosted.rs."""

import json
import os
import socket
import sys
import threading
import time

try:
    import paho.mqtt.client as mqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ImportError as error:
    sys.exit(f"{error}: install it with `cargo xtask test --only provision`")

PROTOCOL = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[sys.argv[1]]
IS_5 = PROTOCOL == mqtt.MQTTv5
SESSION = 3600

writing = threading.Lock()
clients = {}


def answers(port):
    """True where a server takes a client in: one that is being killed still accepts connections."""
    try:
        with socket.create_connection(("localhost", port)) as probe:
            probe.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00")
            return len(probe.recv(4)) == 4
    except OSError:
        return False


class Client:
    def __init__(self, command):
        self.name, self.command = command["client"], command
        self.first, self.leaving = True, False
        # An acknowledgement may come before the caller of publish() knows the message's id.
        self.lock, self.tags, self.early = threading.Lock(), {}, set()
        settings = {} if IS_5 else {"clean_session": not command["lasting"]}
        transport = "websockets" if command["websocket"] else "tcp"
        self.mqtt = mqtt.Client(
            client_id=self.name, protocol=PROTOCOL, transport=transport, reconnect_on_failure=False, **settings
        )
        # Held while it comes back: what is published then must not be sent before CONNECT.
        self.gate = threading.Lock()
        self.mqtt.on_connect, self.mqtt.on_subscribe = self.on_connect, self.on_subscribe
        self.mqtt.on_message, self.mqtt.on_publish = self.on_message, self.on_publish
        self.mqtt.on_disconnect = self.on_disconnect

    def tell(self, event, **fields):
        with writing:
            print(json.dumps({"client": self.name, "event": event, **fields}), flush=True)

    def open(self):
        command, settings = self.command, {}
        if command["websocket"]:
            self.mqtt.ws_set_options(path="/mqtt")
        if command["ca"]:
            self.mqtt.tls_set(ca_certs=command["ca"], certfile=command["certificate"], keyfile=command["key"])
        if command["will"]:
            will = dict(command["will"])
            delay = will.pop("delay")
            if IS_5:
                will["properties"] = Properties(PacketTypes.WILLMESSAGE)
                will["properties"].WillDelayInterval = delay
            self.mqtt.will_set(**will)
        if IS_5:
            settings = {"clean_start": not command["lasting"], "properties": Properties(PacketTypes.CONNECT)}
            settings["properties"].SessionExpiryInterval = SESSION if command["lasting"] else 0
        try:
            self.mqtt.connect("localhost", command["port"], **settings)
        except OSError as error:
            self.tell("failed", reason=str(error))
            return
        self.mqtt.loop_start()

    def on_connect(self, client, userdata, flags, rc, *rest):
        if rc != 0:
            self.tell("failed", reason=f"connection refused: {rc}")
            return
        self.tell("connected", resumed=bool(flags["session present"]))
        if self.first and self.command["filters"]:
            client.subscribe([(filter, self.command["qos"]) for filter in self.command["filters"]])
        self.first = False

    def on_subscribe(self, client, userdata, mid, granted, *rest):
        self.tell("subscribed", granted=[code.value if IS_5 else code for code in granted])

    def on_message(self, client, userdata, message):
        payload = message.payload.decode()
        self.tell("message", topic=message.topic, payload=payload, qos=message.qos, retain=bool(message.retain))

    def on_publish(self, client, userdata, mid):
        with self.lock:
            tag = self.tags.pop(mid, None)
            if tag is None:
                self.early.add(mid)
                return
        self.tell("published", tag=tag)

    def publish(self, command):
        with self.gate:
            info = self.mqtt.publish(command["topic"], command["payload"], command["qos"], command["retain"])
        with self.lock:
            if info.mid not in self.early:
                self.tags[info.mid] = command["tag"]
                return
            self.early.remove(info.mid)
        self.tell("published", tag=command["tag"])

    def on_disconnect(self, client, userdata, rc, *rest):
        if rc == 0:
            self.tell("ended")
        elif not self.leaving:
            threading.Thread(target=self.come_back).start()

    def come_back(self):
        # When it tries in vain to connect Paho forgets which messages it has released, and then publishes them again. So it tries when
        # the server is there.
        self.mqtt.loop_stop()
        while not answers(self.command["port"]):
            time.sleep(0.05)
        with self.gate:
            self.mqtt.reconnect()
            self.mqtt.loop_start()

    def disconnect(self, command):
        self.mqtt.disconnect()

    def cut(self, command):
        self.leaving = True
        with socket.socket(fileno=os.dup(self.mqtt.socket().fileno())) as below:
            below.shutdown(socket.SHUT_RDWR)
        self.mqtt.loop_stop()
        self.tell("ended")


for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "open":
        clients[command["client"]] = Client(command)
        clients[command["client"]].open()
    else:
        getattr(clients[command["client"]], command["do"])(command)
