// Clients of mqtt.js. mqttjs_clients.cjs VERSION; what it reads and writes is told in hosted.rs.

const fs = require('node:fs')
const readline = require('node:readline')
const mqtt = require('mqtt')

const is5 = process.argv[2] === '5'
const SESSION = 3600
const clients = new Map()

function tell (client, event, fields) {
  process.stdout.write(JSON.stringify({ client, event, ...fields }) + '\n')
}

function options (command) {
  const read = (file) => (file ? fs.readFileSync(file) : undefined)
  const chosen = {
    clientId: command.client,
    protocolVersion: is5 ? 5 : 4,
    clean: !command.lasting,
    reconnectPeriod: 100,
    resubscribe: false,
    ca: read(command.ca),
    cert: read(command.certificate),
    key: read(command.key)
  }
  if (is5) chosen.properties = { sessionExpiryInterval: command.lasting ? SESSION : 0 }
  if (command.will) {
    const { delay, ...will } = command.will
    chosen.will = is5 ? { ...will, properties: { willDelayInterval: delay } } : will
  }
  return chosen
}

function url (command) {
  const scheme = (command.websocket ? 'ws' : 'mqtt') + (command.ca ? 's' : '')
  return `${scheme}://localhost:${command.port}${command.websocket ? '/mqtt' : ''}`
}

function open (command) {
  const name = command.client
  const client = mqtt.connect(url(command), options(command))
  clients.set(name, client)
  let first = true
  client.on('connect', (connack) => {
    tell(name, 'connected', { resumed: connack.sessionPresent })
    if (first && command.filters.length > 0) {
      client.subscribe(command.filters, { qos: command.qos }, (error, granted) => {
        if (error) tell(name, 'failed', { reason: error.message })
        else tell(name, 'subscribed', { granted: granted.map((one) => one.qos) })
      })
    }
    first = false
  })
  client.on('message', (topic, payload, { qos, retain }) => {
    tell(name, 'message', { topic, payload: payload.toString(), qos, retain })
  })
  client.on('error', (error) => {
    // A server that is away later is come back to.
    if (!first) return
    tell(name, 'failed', { reason: `${error.message} (${error.code})` })
    client.end(true)
  })
}

const act = {
  open,
  publish ({ client, tag, topic, payload, qos, retain }) {
    clients.get(client).publish(topic, payload, { qos, retain }, (error) => {
      if (error) tell(client, 'failed', { reason: error.message })
      else tell(client, 'published', { tag })
    })
  },
  disconnect ({ client }) {
    clients.get(client).end(false, {}, () => tell(client, 'ended'))
  },
  cut ({ client }) {
    clients.get(client).end(true, {}, () => tell(client, 'ended'))
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  act[command.do](command)
})
