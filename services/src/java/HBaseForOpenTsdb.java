import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.charset.StandardCharsets;

import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.master.HMaster;

/**
 * A standalone HBase in one process, with the tables that OpenTSDB expects.
 *
 * <p>The argument is a file that is written as soon as the tables can be used.
 */
public final class HBaseForOpenTsdb {
    /** Each table with its column families. */
    private static final String[][] TABLES = {
        {"tsdb-uid", "id", "name"},
        {"tsdb", "t"},
        {"tsdb-tree", "t"},
        {"tsdb-meta", "name"},
    };

    private HBaseForOpenTsdb() {}

    public static void main(String[] args) throws Exception {
        Path ready = Path.of(args[0]);
        Thread master = new Thread(() -> HMaster.main(new String[] {"start"}), "standalone");
        master.start();
        // Until the master serves, each attempt fails; whoever started this process knows when to give up.
        while (master.isAlive() && !prepared()) {
            Thread.sleep(250);
        }
        Files.writeString(ready, "ready\n");
        master.join();
    }

    private static boolean prepared() {
        Configuration settings = HBaseConfiguration.create();
        settings.setInt("hbase.client.retries.number", 2);
        settings.setInt("hbase.client.operation.timeout", 20_000);
        try (Connection connection = ConnectionFactory.createConnection(settings);
                Admin admin = connection.getAdmin()) {
            for (String[] table : TABLES) {
                create(admin, table);
            }
            return true;
        } catch (IOException notYet) {
            System.err.println("not yet: " + notYet.getMessage());
            return false;
        }
    }

    private static void create(Admin admin, String[] table) throws IOException {
        TableName name = TableName.valueOf(table[0]);
        if (admin.tableExists(name)) {
            return;
        }
        TableDescriptorBuilder description = TableDescriptorBuilder.newBuilder(name);
        for (int i = 1; i < table.length; i++) {
            byte[] family = table[i].getBytes(StandardCharsets.UTF_8);
            description.setColumnFamily(ColumnFamilyDescriptorBuilder.newBuilder(family).setMaxVersions(1).build());
        }
        admin.createTable(description.build());
    }
}
