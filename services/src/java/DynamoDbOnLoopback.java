import com.amazonaws.services.dynamodbv2.local.main.ServerRunner;
import com.amazonaws.services.dynamodbv2.local.server.DynamoDBProxyServer;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import org.eclipse.jetty.server.Connector;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/**
 * DynamoDB Local, listening on 127.0.0.1 only: its own {@code main} listens on every address and has no option for it.
 *
 * <p>The first argument is a file that is written as soon as it listens; the others are DynamoDB Local's.
 */
public final class DynamoDbOnLoopback {
    private DynamoDbOnLoopback() {}

    public static void main(String[] arguments) throws Exception {
        String[] own = java.util.Arrays.copyOfRange(arguments, 1, arguments.length);
        DynamoDBProxyServer proxy = ServerRunner.createServerFromCommandLineArgs(own);
        Field field = DynamoDBProxyServer.class.getDeclaredField("server");
        field.setAccessible(true);
        for (Connector connector : ((Server) field.get(proxy)).getConnectors()) {
            ((ServerConnector) connector).setHost("127.0.0.1");
        }
        proxy.start();
        Files.writeString(Path.of(arguments[0]), "ready\n");
        proxy.join();
    }
}
