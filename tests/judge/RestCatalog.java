import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;

/**
 * Iceberg's own REST catalog of its tests over its JDBC catalog, on the loopback address alone. The first part of a
 * path names a catalog, which is made when it is first asked for.
 * Arguments: the port, the folder of the databases, the warehouse of all, then properties as key=value.
 */
public class RestCatalog extends HttpServlet {
    private final String folder;
    private final String warehouse;
    private final Map<String, String> properties = new HashMap<>();
    private final Map<String, HttpServlet> catalogs = new ConcurrentHashMap<>();

    private RestCatalog(String[] arguments) {
        folder = arguments[1];
        warehouse = arguments[2];
        for (int at = 3; at < arguments.length; at++) {
            String[] pair = arguments[at].split("=", 2);
            properties.put(pair[0], pair[1]);
        }
    }

    private HttpServlet open(String name) {
        Map<String, String> own = new HashMap<>(properties);
        own.put(CatalogUtil.ICEBERG_CATALOG_TYPE, "jdbc");
        own.put("jdbc.schema-version", "V1");
        own.put("uri", "jdbc:sqlite:" + folder + "/" + name + ".db");
        own.put("warehouse", warehouse + "/" + name);
        var catalog = CatalogUtil.buildIcebergCatalog(name, own, new Configuration());
        HttpServlet servlet = new RESTCatalogServlet(new RESTCatalogAdapter(catalog));
        try {
            servlet.init(getServletConfig());
        } catch (ServletException error) {
            throw new IllegalStateException(error);
        }
        return servlet;
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
            throws IOException, ServletException {
        String[] parts = request.getRequestURI().split("/", 3);
        var inside = new HttpServletRequestWrapper(request) {
            @Override
            public String getRequestURI() {
                return "/" + parts[2];
            }
        };
        catalogs.computeIfAbsent(parts[1], this::open).service(inside, response);
    }

    public static void main(String[] arguments) throws Exception {
        ServletContextHandler context = new ServletContextHandler(ServletContextHandler.NO_SESSIONS);
        context.addServlet(new ServletHolder(new RestCatalog(arguments)), "/*");
        Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
        server.setHandler(context);
        server.start();
        server.join();
    }
}
