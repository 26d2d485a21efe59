from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer


class Report(FileSystemEventHandler):
    def on_any_event(self, event):
        print(event.event_type, event.src_path, flush=True)


observer = Observer()
observer.schedule(Report(), ".", recursive=True)
observer.start()
print("ready", flush=True)
observer.join()
