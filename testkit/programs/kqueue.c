// An unmodified program with kqueues that carries out commands, one a line, and prints a line for
// each. Numbers are hexadecimal but for descriptors and counts.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// What <sys/event.h> has on macOS.
#pragma pack(4)
struct kevent {
  uintptr_t ident;
  int16_t filter;
  uint16_t flags;
  uint32_t fflags;
  intptr_t data;
  void *udata;
};
#pragma pack()
int kqueue(void);
int kevent(int, const struct kevent *, int, struct kevent *, int, const struct timespec *);
enum { EVFILT_VNODE = -4, EVFILT_USER = -10, EV_ADD = 1, EV_DELETE = 2, EV_CLEAR = 0x20, NOTE_TRIGGER = 0x01000000 };
enum { MOST = 4096 };

static void say(long result) {
  if (result < 0)
    printf("%s\n", strerrorname_np(errno));
  else
    printf("%ld\n", result);
  fflush(stdout);
}

// filter:ident:flags:fflags:data:udata, in the order of the eventlist.
static void say_events(const struct kevent *events, int count) {
  if (count < 0) {
    say(count);
    return;
  }
  if (!count) printf("nothing");
  for (int i = 0; i < count; i++) {
    const struct kevent *event = &events[i];
    printf("%s%d:%lx:%x:%x:%lx:%lx", i ? " " : "", event->filter, (long)event->ident,
           event->flags, event->fflags, (long)event->data, (long)event->udata);
  }
  printf("\n");
  fflush(stdout);
}

// Two threads in one queue.
static struct {
  pthread_mutex_t lock;
  int kq, want, got, seen[MOST];
} both = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *fetch(void *unused) {
  (void)unused;
  for (;;) {
    struct kevent event;
    if (kevent(both.kq, NULL, 0, &event, 1, NULL) != 1) return (void *)1;
    if (event.filter == EVFILT_USER) return NULL;
    pthread_mutex_lock(&both.lock);
    if (event.ident < MOST) both.seen[event.ident]++;
    int is_last = ++both.got == both.want;
    pthread_mutex_unlock(&both.lock);
    if (!is_last) continue;
    // Level-triggered: every thread gets it.
    struct kevent end[2] = {{99, EVFILT_USER, EV_ADD, 0, 0, NULL},
                            {99, EVFILT_USER, 0, NOTE_TRIGGER, 0, NULL}};
    if (kevent(both.kq, end, 2, NULL, 0, NULL) < 0) return (void *)1;
  }
}

static void fetch_in_two_threads(void) {
  pthread_t threads[2];
  memset(both.seen, 0, sizeof both.seen);
  both.got = 0;
  printf("ready\n");
  fflush(stdout);
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, fetch, NULL);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  int once = 0, otherwise = 0;
  for (int i = 0; i < MOST; i++)
    if (both.seen[i]) both.seen[i] == 1 ? once++ : otherwise++;
  printf("%d %d\n", once, otherwise);
  fflush(stdout);
}

// Files 0, 1, ... of a directory, all in one changelist. How many.
static long watch_all(int kq, int count, const char *directory) {
  struct kevent *changes = calloc(count, sizeof *changes);
  char path[4200];
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%d", directory, i);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    struct kevent change = {fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, 0x7f, 0, (void *)(uintptr_t)i};
    changes[i] = change;
  }
  int result = kevent(kq, changes, count, NULL, 0, NULL);
  free(changes);
  return result < 0 ? result : count;
}

// Waits for so many events. The answer: files with one event, and with more.
static void collect(int kq, int want) {
  static struct kevent events[MOST];
  static unsigned char seen[1 << 16];
  int got = 0, once = 0, more = 0;
  memset(seen, 0, sizeof seen);
  while (got < want) {
    int count = kevent(kq, NULL, 0, events, MOST, NULL);
    if (count < 0) break;
    for (int i = 0; i < count; i++, got++) {
      unsigned char *file = &seen[(uintptr_t)events[i].udata % sizeof seen];
      if (*file < 2) ++*file;
    }
  }
  for (unsigned i = 0; i < sizeof seen; i++) seen[i] == 1 ? once++ : (more += seen[i] > 1);
  printf("%d %d\n", once, more);
  fflush(stdout);
}

// Everything that a watcher does, until it is killed.
static void churn(int fd) {
  struct kevent change[2] = {{fd, EVFILT_VNODE, EV_ADD | EV_CLEAR, 0x7f, 0, NULL},
                             {123, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER, 0, NULL}};
  for (;;) {
    struct kevent events[4];
    struct timespec soon = {0, 100000};
    int kq = kqueue();
    for (int i = 0; i < 6; i++) {
      kevent(kq, change, 2, events, 4, &soon);
      if (i == 3) {
        struct kevent end = {fd, EVFILT_VNODE, EV_DELETE, 0, 0, NULL};
        kevent(kq, &end, 1, NULL, 0, NULL);
      }
    }
    close(kq);
  }
}

int main(void) {
  static int many[1024];
  static struct kevent changes[64], events[MOST];
  static char line[8192], word[64], path[4096];
  int pending = 0;
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  // The user-space kqueue has several descriptors for each queue.
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  while (fgets(line, sizeof line, stdin)) {
    int fd = -1, room = 0, wait_ms = -1;
    sscanf(line, "%63s %d", word, &fd);
    if (!strcmp(word, "kqueue")) {
      say(kqueue());
    } else if (!strcmp(word, "open")) {
      sscanf(line, "%*s %4095[^\n]", path);
      say(open(path, O_RDONLY));
    } else if (!strcmp(word, "close")) {
      say(close(fd));
    } else if (!strcmp(word, "change")) {
      // IDENT FILTER FLAGS FFLAGS DATA UDATA: into the changelist of the next call.
      unsigned long ident = 0, udata = 0, data = 0;
      int filter = 0;
      unsigned flags = 0, fflags = 0;
      sscanf(line, "%*s %lx %d %x %x %lx %lx", &ident, &filter, &flags, &fflags, &data, &udata);
      struct kevent change = {ident, filter, flags, fflags, data, (void *)udata};
      changes[pending++] = change;
      say(pending);
    } else if (!strcmp(word, "call")) {
      // KQ ROOM MILLISECONDS, and no milliseconds for no timeout.
      sscanf(line, "%*s %d %d %d", &fd, &room, &wait_ms);
      struct timespec timeout = {wait_ms / 1000, wait_ms % 1000 * 1000000L};
      int count = kevent(fd, changes, pending, events, room, wait_ms < 0 ? NULL : &timeout);
      pending = 0;
      say_events(events, count);
    } else if (!strcmp(word, "many")) {
      // COUNT FD: so many queues that watch the file.
      int added = 0, file = -1;
      sscanf(line, "%*s %*d %d", &file);
      for (int i = 0; i < fd; i++) {
        struct kevent change = {file, EVFILT_VNODE, EV_ADD | EV_CLEAR, 0x7f, 0, NULL};
        many[i] = kqueue();
        added += !kevent(many[i], &change, 1, NULL, 0, NULL);
      }
      say(added);
    } else if (!strcmp(word, "watchall")) {
      // KQ COUNT DIRECTORY
      sscanf(line, "%*s %*d %d %4095[^\n]", &room, path);
      say(watch_all(fd, room, path));
    } else if (!strcmp(word, "collect")) {
      // KQ COUNT
      sscanf(line, "%*s %*d %d", &room);
      collect(fd, room);
    } else if (!strcmp(word, "hear")) {
      // COUNT: how many of them have one event.
      struct timespec now = {0, 0};
      int heard = 0;
      for (int i = 0; i < fd; i++) heard += kevent(many[i], NULL, 0, events, 4, &now) == 1;
      say(heard);
    } else if (!strcmp(word, "churn")) {
      say(0);
      churn(fd);
    } else if (!strcmp(word, "bad")) {
      // A changelist at an address that is none.
      say(kevent(fd, (void *)8, 1, events, 1, NULL));
    } else if (!strcmp(word, "halfbad")) {
      // KQ: the pending change lies at the end of a page, and the second change is not there.
      char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      char *first = pages + 4096 - sizeof *changes;
      memcpy(first, changes, sizeof *changes);
      mprotect(pages + 4096, 4096, PROT_NONE);
      pending = 0;
      say(kevent(fd, (void *)first, 2, events, 0, NULL));
    } else if (!strcmp(word, "poll")) {
      struct pollfd one = {fd, POLLIN, 0};
      int result = poll(&one, 1, 0);
      say(result < 0 ? result : one.revents);
    } else if (!strcmp(word, "socketpair")) {
      int pair[2];
      int result = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
      say(result < 0 ? result : pair[0]);
    } else if (!strcmp(word, "send")) {
      say(write(fd, "abc", 3));
    } else if (!strcmp(word, "receive")) {
      say(read(fd, path, 3));
    } else if (!strcmp(word, "raise")) {
      say(kill(getpid(), SIGUSR2));
    } else if (!strcmp(word, "two")) {
      sscanf(line, "%*s %d %d", &both.kq, &both.want);
      fetch_in_two_threads();
    } else {
      printf("unknown command\n");
      fflush(stdout);
    }
  }
  return 0;
}
