import static java.nio.file.StandardWatchEventKinds.*;

import java.nio.file.FileSystems;
import java.nio.file.Path;

class Watch {
    public static void main(String[] arguments) throws Exception {
        var service = FileSystems.getDefault().newWatchService();
        Path.of(".").register(service, ENTRY_CREATE, ENTRY_MODIFY, ENTRY_DELETE);
        System.out.println("ready");
        for (;;) {
            var key = service.take();
            for (var event : key.pollEvents()) {
                for (int time = 0; time < event.count(); time++) {
                    System.out.println(event.kind() + " " + event.context());
                }
            }
            key.reset();
        }
    }
}
