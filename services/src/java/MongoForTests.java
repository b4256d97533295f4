import de.bwaldvogel.mongo.MongoBackend;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.BinData;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import de.bwaldvogel.mongo.exception.MongoServerException;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import io.netty.channel.Channel;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import javax.crypto.Mac;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;
import org.h2.mvstore.MVStore;

/**
 * Mongo Java Server as drivers of today expect it: `hello`, a wire version they take, codes on all errors, logins by SCRAM-SHA-256,
 * `configureFailPoint` (failCommand) as mongod has it, and with --sync writes that are on the disk when they are answered.
 *
 * Arguments: PORT, `memory` or a file, then any of --sync, --login NAME PASSWORD, --tls CERTIFICATE KEY.
 */
public class MongoForTests {
    private static final Set<String> WITHOUT_LOGIN =
        Set.of("hello", "ismaster", "saslstart", "saslcontinue", "buildinfo", "ping", "endsessions");
    private static final Set<String> WRITES =
        Set.of("insert", "update", "delete", "findandmodify", "create", "createindexes", "drop", "dropdatabase", "dropindexes");
    private static final Document OK = new Document("ok", 1.0);

    private final MongoBackend inner;
    private final Commits commits;
    private final boolean logins;
    /** Name to password and role. */
    private final Map<String, String[]> users = new ConcurrentHashMap<>();
    private final Map<Channel, Login> underWay = new ConcurrentHashMap<>();
    private final Map<Channel, String> loggedIn = new ConcurrentHashMap<>();
    private final FailPoint failPoint = new FailPoint();

    private MongoForTests(MongoBackend inner, Commits commits, String name, String password) {
        this.inner = inner;
        this.commits = commits;
        logins = name != null;
        if (logins) {
            users.put(name, new String[] {password, "root"});
        }
    }

    public static void main(String[] arguments) throws Exception {
        List<String> words = List.of(arguments);
        H2Backend file = words.get(1).equals("memory") ? null : file(words.get(1), words.contains("--sync"));
        MongoBackend backend = file == null ? new MemoryBackend() : file;
        backend.version(new MongoVersion() {
            @Override
            public List<Integer> getVersionArray() {
                return List.of(5, 0, 0);
            }

            @Override
            public int getWireVersion() {
                return 13;
            }
        });
        int login = words.indexOf("--login");
        Commits commits = new Commits(words.contains("--sync") ? file : null);
        MongoForTests own = login < 0
            ? new MongoForTests(backend, commits, null, null)
            : new MongoForTests(backend, commits, words.get(login + 1), words.get(login + 2));
        MongoServer server = new MongoServer(own.proxy());
        int tls = words.indexOf("--tls");
        if (tls >= 0) {
            CertificateFactory factory = CertificateFactory.getInstance("X.509");
            X509Certificate certificate;
            try (var in = Files.newInputStream(Path.of(words.get(tls + 1)))) {
                certificate = (X509Certificate) factory.generateCertificate(in);
            }
            String pem = Files.readString(Path.of(words.get(tls + 2))).replaceAll("-----[A-Z ]+-----|\\s", "");
            var spec = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem));
            server.enableSsl(KeyFactory.getInstance("EC").generatePrivate(spec), null, certificate);
        }
        server.bind("127.0.0.1", Integer.parseInt(words.get(0)));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        Thread.currentThread().join();
    }

    /** With --sync nothing is committed but by {@link Commits}. */
    private static H2Backend file(String name, boolean sync) {
        MVStore.Builder builder = new MVStore.Builder().fileName(name);
        return new H2Backend((sync ? builder.autoCommitDisabled().autoCommitBufferSize(0) : builder).open());
    }

    /** The backend with this launcher's answers first. */
    private MongoBackend proxy() {
        Class<?>[] types = {MongoBackend.class};
        return (MongoBackend) Proxy.newProxyInstance(getClass().getClassLoader(), types, (self, method, arguments) -> {
            try {
                switch (method.getName()) {
                    case "handleMessage": {
                        Document command = ((MongoMessage) arguments[0]).getDocument();
                        Channel channel = ((MongoMessage) arguments[0]).getChannel();
                        return answer(channel, command, () -> (Document) method.invoke(inner, arguments));
                    }
                    case "handleCommand":
                        return answer(
                            (Channel) arguments[0], (Document) arguments[3], () -> (Document) method.invoke(inner, arguments));
                    case "handleClose":
                        underWay.remove(arguments[0]);
                        loggedIn.remove(arguments[0]);
                        return method.invoke(inner, arguments);
                    default:
                        return method.invoke(inner, arguments);
                }
            } catch (InvocationTargetException error) {
                throw withCode(error.getCause());
            }
        });
    }

    private interface Call {
        Document run() throws Exception;
    }

    private Document answer(Channel channel, Document command, Call call) throws Exception {
        String name = command.keySet().iterator().next();
        String lower = name.toLowerCase(Locale.ROOT);
        if (logins && !WITHOUT_LOGIN.contains(lower)) {
            String user = loggedIn.get(channel);
            String[] known = user == null ? null : users.get(user);
            if (known == null) {
                throw new MongoServerError(13, "Unauthorized", "command " + name + " requires authentication");
            }
            if (known[1].equals("read") && WRITES.contains(lower)) {
                throw new MongoServerError(13, "Unauthorized", "not authorized to execute command " + name);
            }
        }
        switch (lower) {
            case "hello":
            case "ismaster":
                return hello(channel, command, lower);
            case "endsessions":
                return OK.clone();
            case "saslstart": {
                Login login = new Login(users);
                underWay.put(channel, login);
                return login.begin(command);
            }
            case "saslcontinue": {
                Login login = underWay.get(channel);
                if (login == null) {
                    throw Login.refused();
                }
                Document reply = login.end(bytes(command.get("payload")));
                loggedIn.put(channel, login.name);
                return reply;
            }
            case "createuser":
            case "updateuser":
                users.put((String) command.get(name), new String[] {(String) command.get("pwd"), role(command.get("roles"))});
                return OK.clone();
            case "dropuser":
                users.remove((String) command.get(name));
                return OK.clone();
            case "configurefailpoint":
                failPoint.set(command);
                return OK.clone();
            default:
        }
        Document concern = failPoint.meet(channel, name);
        Document reply = WRITES.contains(lower) ? commits.write(call) : call.run();
        if (reply != null && reply.containsKey("errmsg") && !reply.containsKey("code")) {
            boolean absent = "ns not found".equals(reply.get("errmsg"));
            reply.put("code", absent ? 26 : 8000);
            reply.put("codeName", absent ? "NamespaceNotFound" : "AtlasError");
        }
        if (concern != null) {
            reply.put("writeConcernError", concern);
        }
        return reply;
    }

    private Document hello(Channel channel, Document command, String lower) {
        Document reply = new Document(lower.equals("hello") ? "isWritablePrimary" : "ismaster", true)
            .append("helloOk", true)
            .append("maxBsonObjectSize", 16 << 20)
            .append("maxMessageSizeBytes", 48_000_000)
            .append("maxWriteBatchSize", 100_000)
            .append("localTime", java.time.Instant.now())
            .append("connectionId", channel.hashCode() & 0x7fff_ffff)
            .append("minWireVersion", 0)
            .append("maxWireVersion", 13)
            .append("readOnly", false);
        if (logins && command.containsKey("saslSupportedMechs")) {
            reply.append("saslSupportedMechs", List.of("SCRAM-SHA-256"));
        }
        return reply.append("ok", 1.0);
    }

    /**
     * Commits whole commands. The server puts a document and its entry in the index of `_id` one after the other: a commit between the two,
     * then a kill, and the document is there without its entry, which no mongod leaves behind; it can be neither inserted nor found.
     */
    private static class Commits {
        private final H2Backend file;
        /** Commands share it, a commit has it alone. */
        private final ReentrantReadWriteLock lock = new ReentrantReadWriteLock();
        private final AtomicLong written = new AtomicLong();
        private long committed;

        Commits(H2Backend file) {
            this.file = file;
        }

        /** Runs a command; what it wrote is on the disk when this returns, or throws. */
        Document write(Call call) throws Exception {
            if (file == null) {
                return call.run();
            }
            lock.readLock().lock();
            try {
                return call.run();
            } finally {
                long own = written.incrementAndGet();
                lock.readLock().unlock();
                commit(own);
            }
        }

        /** One commit for all who wait. */
        private void commit(long own) {
            lock.writeLock().lock();
            try {
                if (committed < own) {
                    long all = written.get();
                    file.commit();
                    committed = all;
                }
            } finally {
                lock.writeLock().unlock();
            }
        }
    }

    private static String role(Object roles) {
        Object first = roles instanceof List && !((List<?>) roles).isEmpty() ? ((List<?>) roles).get(0) : "readWrite";
        return String.valueOf(first instanceof Document ? ((Document) first).get("role") : first);
    }

    /** Drivers take no error without a code. */
    private static Throwable withCode(Throwable error) {
        if (error instanceof MongoServerError || !(error instanceof MongoServerException)) {
            return error;
        }
        String text = String.valueOf(error.getMessage());
        if (text.contains("no such command")) {
            return new MongoServerError(59, "CommandNotFound", text);
        }
        boolean absent = text.contains("ns not found");
        return new MongoServerError(absent ? 26 : 8000, absent ? "NamespaceNotFound" : "AtlasError", text);
    }

    private static byte[] bytes(Object value) {
        return value instanceof BinData ? ((BinData) value).getData() : (byte[]) value;
    }

    /** `{configureFailPoint: "failCommand", mode: "off" | "alwaysOn" | {times: n}, data: {failCommands, errorCode, closeConnection, …}}`. */
    private static class FailPoint {
        private long left;
        private Document data;

        synchronized void set(Document command) {
            Object mode = command.get("mode");
            data = (Document) command.get("data");
            if (mode instanceof Document) {
                left = ((Number) ((Document) mode).get("times")).longValue();
            } else {
                left = "alwaysOn".equals(mode) ? Long.MAX_VALUE : 0;
            }
        }

        /** Fails the command where it is one of those, or returns the error of its write concern. */
        synchronized Document meet(Channel channel, String name) throws MongoServerException {
            if (left == 0 || data == null || !((List<?>) data.get("failCommands")).contains(name)) {
                return null;
            }
            left--;
            if (Boolean.TRUE.equals(data.get("closeConnection"))) {
                channel.close();
                throw new MongoServerError(6, "HostUnreachable", "the fail point closes the connection");
            }
            Object code = data.get("errorCode");
            if (code != null) {
                Object text = data.getOrDefault("errmsg", "Failing command via 'failCommand' failpoint");
                throw new MongoServerError(((Number) code).intValue(), "FailPoint", String.valueOf(text));
            }
            return (Document) data.get("writeConcernError");
        }
    }

    /** One login by SCRAM-SHA-256 (RFC 7677). */
    private static class Login {
        private static final int ROUNDS = 4096;
        private final Map<String, String[]> users;
        private final byte[] salt = new byte[16];
        String name;
        private String nonce;
        private String transcript;

        Login(Map<String, String[]> users) {
            this.users = users;
            new SecureRandom().nextBytes(salt);
        }

        static MongoServerError refused() {
            return new MongoServerError(18, "AuthenticationFailed", "Authentication failed.");
        }

        Document begin(Document command) throws Exception {
            if (!"SCRAM-SHA-256".equals(command.get("mechanism"))) {
                throw new MongoServerError(334, "MechanismUnavailable", "only SCRAM-SHA-256 is there");
            }
            String bare = new String(bytes(command.get("payload")), StandardCharsets.UTF_8).substring("n,,".length());
            Map<String, String> fields = fields(bare);
            name = fields.get("n").replace("=2C", ",").replace("=3D", "=");
            byte[] own = new byte[18];
            new SecureRandom().nextBytes(own);
            nonce = fields.get("r") + Base64.getEncoder().encodeToString(own);
            String first = "r=" + nonce + ",s=" + Base64.getEncoder().encodeToString(salt) + ",i=" + ROUNDS;
            transcript = bare + "," + first;
            return reply(first, false);
        }

        Document end(byte[] payload) throws Exception {
            if (payload.length == 0) {
                return reply("", true);
            }
            String text = new String(payload, StandardCharsets.UTF_8);
            Map<String, String> fields = fields(text);
            String[] known = users.get(name);
            String password = known == null ? "" : known[0];
            // An empty password can't be given to PBEKeySpec; nobody has one.
            var spec = new PBEKeySpec((password.isEmpty() ? "-" : password).toCharArray(), salt, ROUNDS, 256);
            byte[] salted = SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(spec).getEncoded();
            String signed = transcript + "," + text.substring(0, text.lastIndexOf(",p="));
            byte[] stored = MessageDigest.getInstance("SHA-256").digest(hmac(salted, "Client Key"));
            byte[] proof = Base64.getDecoder().decode(fields.get("p"));
            byte[] signature = hmac(stored, signed);
            for (int i = 0; i < proof.length && i < signature.length; i++) {
                proof[i] ^= signature[i];
            }
            boolean same = MessageDigest.isEqual(MessageDigest.getInstance("SHA-256").digest(proof), stored);
            if (known == null || !same || !nonce.equals(fields.get("r"))) {
                throw refused();
            }
            byte[] server = hmac(hmac(salted, "Server Key"), signed);
            return reply("v=" + Base64.getEncoder().encodeToString(server), true);
        }

        private static Document reply(String text, boolean done) {
            return new Document("conversationId", 1)
                .append("done", done)
                .append("payload", new BinData(text.getBytes(StandardCharsets.UTF_8)))
                .append("ok", 1.0);
        }

        private static byte[] hmac(byte[] key, String text) throws Exception {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
        }

        private static Map<String, String> fields(String text) {
            Map<String, String> fields = new HashMap<>();
            for (String part : text.split(",")) {
                int equals = part.indexOf('=');
                if (equals > 0) {
                    fields.put(part.substring(0, equals), part.substring(equals + 1));
                }
            }
            return fields;
        }
    }
}
