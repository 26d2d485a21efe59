// An unmodified program that carries out commands, one a line, and prints a line for each.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[1 << 20];

static void say(long result) {
  if (result < 0)
    printf("%s\n", strerrorname_np(errno));
  else
    printf("%ld\n", result);
  fflush(stdout);
}

static void say_events(const char *bytes, ssize_t length) {
  if (length < 0) {
    say(length);
    return;
  }
  ssize_t at = 0;
  while (at < length) {
    const struct inotify_event *event = (const void *)(bytes + at);
    printf("%s%d:%x:%x:%s", at ? " " : "", event->wd, event->mask, event->cookie,
           event->len ? event->name : "");
    at += sizeof *event + event->len;
  }
  printf(at == length ? "\n" : " torn\n");
  fflush(stdout);
}

static void on_signal(int number) { (void)number; }

struct reader {
  int fd, want;
  int *got;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char seen[1 << 16];

// Reads until an event is named "end", and notes the number in every other name.
static void *read_until_end(void *argument) {
  int fd = *(int *)argument;
  char bytes[4096];
  for (;;) {
    ssize_t length = read(fd, bytes, sizeof bytes);
    if (length < 0) return (void *)1;
    for (ssize_t at = 0; at < length;) {
      const struct inotify_event *event = (const void *)(bytes + at);
      at += sizeof *event + event->len;
      if (event->len && !strcmp(event->name, "end")) return 0;
      pthread_mutex_lock(&lock);
      if (event->len) seen[atoi(event->name + 1)]++;
      pthread_mutex_unlock(&lock);
    }
  }
}

// A system call that no library sees.
static long bare_read(int fd, void *bytes, size_t length) {
#if defined(__x86_64__)
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(SYS_read), "D"(fd), "S"(bytes), "d"(length)
                   : "rcx", "r11", "memory");
  return result;
#else
  register long number __asm__("x8") = SYS_read;
  register long a __asm__("x0") = fd;
  register void *b __asm__("x1") = bytes;
  register size_t c __asm__("x2") = length;
  __asm__ volatile("svc 0" : "+r"(a) : "r"(number), "r"(b), "r"(c) : "memory");
  return a;
#endif
}

// Notes the events that are called by numbers; each number counts up to 2.
static void note_numbers(const char *bytes, ssize_t length) {
  for (ssize_t at = 0; at < length;) {
    const struct inotify_event *event = (const void *)(bytes + at);
    at += sizeof *event + event->len;
    if (!event->len) continue;
    char *count = &seen[atoi(event->name + 1)];
    char before = 0;
    while (!__atomic_compare_exchange_n(count, &before, before + 1, 0, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
  }
}

static int stormy;

// Reads in the middle of whatever the program does.
static void on_alarm(int number) {
  (void)number;
  char bytes[4096];
  int before = errno;
  note_numbers(bytes, read(stormy, bytes, sizeof bytes));
  errno = before;
}

// Reads a descriptor that does not block until COUNT numbers were seen, while a timer interrupts that and
// reads, too. The answer: numbers seen once, and seen otherwise.
static void storm(int fd, int count) {
  struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
  struct sigaction action = {.sa_handler = on_alarm};
  memset(seen, 0, sizeof seen);
  stormy = fd;
  sigaction(SIGALRM, &action, 0);
  printf("ready\n");
  fflush(stdout);
  setitimer(ITIMER_REAL, &often, 0);
  for (int got = 0; got < count;) {
    struct pollfd one = {fd, POLLIN, 0};
    poll(&one, 1, 1);
    char bytes[4096];
    note_numbers(bytes, read(fd, bytes, sizeof bytes));
    got = 0;
    for (int i = 0; i < count; i++) got += __atomic_load_n(&seen[i], __ATOMIC_RELAXED) > 0;
  }
  setitimer(ITIMER_REAL, &never, 0);
  int once = 0, otherwise = 0;
  for (int i = 0; i < count; i++) seen[i] == 1 ? once++ : otherwise++;
  printf("%d %d\n", once, otherwise);
  fflush(stdout);
}

static void *read_and_say(void *argument) {
  char bytes[4096];
  say_events(bytes, read(*(int *)argument, bytes, sizeof bytes));
  return 0;
}

static void *read_once(void *argument) {
  char bytes[4096];
  return (void *)read(*(int *)argument, bytes, sizeof bytes);
}

// Reads until there were so many events. The answer: watches with one event, and with more.
static void collect(int fd, int want) {
  int got = 0, once = 0, more = 0;
  memset(seen, 0, sizeof seen);
  while (got < want) {
    ssize_t length = read(fd, buffer, sizeof buffer);
    if (length < 0) break;
    for (ssize_t at = 0; at < length; got++) {
      const struct inotify_event *event = (const void *)(buffer + at);
      at += sizeof *event + event->len;
      if (event->wd > 0 && event->wd < (int)sizeof seen && seen[event->wd] < 2) seen[event->wd]++;
    }
  }
  for (unsigned i = 0; i < sizeof seen; i++) seen[i] == 1 ? once++ : (more += seen[i] > 1);
  printf("%d %d\n", once, more);
  fflush(stdout);
}

// Children that each watch, hear something and end. How many did.
static int short_lives(int count, const char *path) {
  enum { AT_ONCE = 8 };
  int running = 0, good = 0, status;
  for (int i = 0; i < count || running;) {
    if (i < count && running < AT_ONCE) {
      if (!fork()) {
        int fd = inotify_init1(IN_CLOEXEC);
        if (inotify_add_watch(fd, path, IN_ATTRIB) != 1) _exit(1);
        const struct inotify_event *event = (const void *)buffer;
        _exit(read(fd, buffer, sizeof buffer) < 16 || event->wd != 1 || !(event->mask & IN_ATTRIB));
      }
      i++;
      running++;
    } else {
      wait(&status);
      running--;
      good += !status;
    }
  }
  return good;
}

// Everything that a watcher does, until it is killed.
static void churn(const char *path) {
  for (unsigned round = 0;; round++) {
    int fd = inotify_init1(IN_NONBLOCK);
    for (int i = 0; i < 4; i++) {
      int wd = inotify_add_watch(fd, path, IN_ALL_EVENTS);
      if (read(fd, buffer, round % 3 ? sizeof buffer : 64) > 0 && round % 2) {
        inotify_rm_watch(fd, wd);
      }
    }
    if (round % 8 == 0) {
      pid_t child = fork();
      if (!child) _exit(read(fd, buffer, sizeof buffer) < 0);
      waitpid(child, 0, 0);
    }
    int copy = dup(fd);
    close(fd);
    if (read(copy, buffer, sizeof buffer) < 0) round++;
    close(copy);
  }
}

int main(void) {
  static int many[1024], gate[2];
  static char line[8192], word[64], path[4096];
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, 0);
  while (fgets(line, sizeof line, stdin)) {
    int fd = -1;
    unsigned a = 0;
    sscanf(line, "%63s %d %u", word, &fd, &a);
    if (!strcmp(word, "init")) {
      say(inotify_init1(fd));
    } else if (!strcmp(word, "add")) {
      sscanf(line, "%*s %d %x %4095[^\n]", &fd, &a, path);
      say(inotify_add_watch(fd, path, a));
    } else if (!strcmp(word, "addall")) {
      // FD MASK COUNT PATH: the directories that are called by numbers below it.
      unsigned count = 0, added = 0;
      char one[4200];
      sscanf(line, "%*s %d %x %u %4095[^\n]", &fd, &a, &count, path);
      for (unsigned i = 0; i < count; i++) {
        snprintf(one, sizeof one, "%s/%u", path, i);
        added += inotify_add_watch(fd, one, a) > 0;
      }
      say(added);
    } else if (!strcmp(word, "collect")) {
      collect(fd, a);
    } else if (!strcmp(word, "many")) {
      // COUNT MASK PATH: so many instances with one watch each.
      int added = 0;
      sscanf(line, "%*s %*d %x %4095[^\n]", &a, path);
      for (int i = 0; i < fd; i++) {
        many[i] = inotify_init1(IN_NONBLOCK);
        added += inotify_add_watch(many[i], path, a) == 1;
      }
      say(added);
    } else if (!strcmp(word, "hear")) {
      // COUNT: how many of them have one event.
      int heard = 0;
      for (int i = 0; i < fd; i++) heard += read(many[i], buffer, sizeof buffer) == 16;
      say(heard);
    } else if (!strcmp(word, "shortlives")) {
      sscanf(line, "%*s %*d %4095[^\n]", path);
      say(short_lives(fd, path));
    } else if (!strcmp(word, "churn")) {
      sscanf(line, "%*s %4095[^\n]", path);
      say(0);
      churn(path);
    } else if (!strcmp(word, "sysadd")) {
      sscanf(line, "%*s %d %x %4095[^\n]", &fd, &a, path);
      say(syscall(SYS_inotify_add_watch, fd, path, a));
    } else if (!strcmp(word, "rm")) {
      say(inotify_rm_watch(fd, a));
    } else if (!strcmp(word, "read")) {
      say_events(buffer, read(fd, buffer, a));
    } else if (!strcmp(word, "bareread")) {
      say(bare_read(fd, buffer, a));
    } else if (!strcmp(word, "threadread")) {
      // A thread reads; its answer comes when it has.
      static int of_thread;
      pthread_t thread;
      of_thread = fd;
      pthread_create(&thread, 0, read_and_say, &of_thread);
      pthread_detach(thread);
    } else if (!strcmp(word, "storm")) {
      storm(fd, a);
    } else if (!strcmp(word, "forkread")) {
      // A child that waits for "wake", and then reads once and says what.
      char byte;
      if (pipe(gate)) _exit(1);
      if (!fork()) {
        if (read(gate[0], &byte, 1) != 1) _exit(1);
        say_events(buffer, read(fd, buffer, a));
        _exit(0);
      }
      say(0);
    } else if (!strcmp(word, "wake")) {
      if (write(gate[1], "!", 1) != 1) _exit(1);
      wait(0);
    } else if (!strcmp(word, "forkhold")) {
      // A child that only has what its parent had. The answer: its number, once it runs.
      char byte;
      if (pipe(gate)) _exit(1);
      pid_t child = fork();
      if (!child) {
        if (write(gate[1], "!", 1) != 1) _exit(1);
        pause();
        _exit(0);
      }
      if (read(gate[0], &byte, 1) != 1) _exit(1);
      say(child);
    } else if (!strcmp(word, "killhold")) {
      kill(fd, SIGKILL);
      say(waitpid(fd, 0, 0));
    } else if (!strcmp(word, "vforkinit")) {
      // A child makes an instance that has the number of one of its parent's.
      pid_t child = vfork();
      if (!child) {
        close_range(fd, fd, 0);
        _exit(inotify_init1(0) != fd);
      }
      int status;
      waitpid(child, &status, 0);
      say(WEXITSTATUS(status));
    } else if (!strcmp(word, "readv")) {
      struct iovec parts[] = {{buffer, 0}, {buffer, a}, {buffer + a, a}};
      say_events(buffer, readv(fd, parts, 3));
    } else if (!strcmp(word, "sysread")) {
      say_events(buffer, syscall(SYS_read, fd, buffer, a));
    } else if (!strcmp(word, "dlread")) {
      ssize_t (*found)(int, void *, size_t) = dlsym(dlopen("libc.so.6", RTLD_LAZY), "read");
      say_events(buffer, found(fd, buffer, a));
    } else if (!strcmp(word, "chkread")) {
      extern ssize_t __read_chk(int, void *, size_t, size_t);
      say_events(buffer, __read_chk(fd, buffer, a, sizeof buffer));
    } else if (!strcmp(word, "poll")) {
      struct pollfd one = {fd, POLLIN, 0};
      int result = poll(&one, 1, a);
      say(result < 0 ? result : one.revents);
    } else if (!strcmp(word, "fionread")) {
      int count = -1;
      int result = ioctl(fd, FIONREAD, &count);
      say(result < 0 ? result : count);
    } else if (!strcmp(word, "nonblock")) {
      say(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
    } else if (!strcmp(word, "dup")) {
      say(dup(fd));
    } else if (!strcmp(word, "dup2")) {
      say(dup2(fd, a));
    } else if (!strcmp(word, "dupfd")) {
      say(fcntl(fd, F_DUPFD_CLOEXEC, a));
    } else if (!strcmp(word, "close")) {
      say(close(fd));
    } else if (!strcmp(word, "dup3")) {
      unsigned flags = 0;
      sscanf(line, "%*s %*d %*u %u", &flags);
      say(dup3(fd, a, flags));
    } else if (!strcmp(word, "sysdup3")) {
      say(syscall(SYS_dup3, fd, a, 0));
    } else if (!strcmp(word, "sysinit")) {
      say(syscall(SYS_inotify_init1, fd));
    } else if (!strcmp(word, "closerange")) {
      unsigned flags = 0;
      sscanf(line, "%*s %*d %*u %u", &flags);
      say(close_range(fd, a, flags));
    } else if (!strcmp(word, "fclose")) {
      say(fclose(fdopen(fd, "r")));
    } else if (!strcmp(word, "fullpipe")) {
      // The end to read from, with 32 bytes in it.
      int ends[2];
      if (pipe(ends)) _exit(1);
      memset(buffer, 0, 32);
      if (write(ends[1], buffer, 32) != 32) _exit(1);
      say(ends[0]);
    } else if (!strcmp(word, "closefrom")) {
      closefrom(fd);
      say(0);
    } else if (!strcmp(word, "opennull")) {
      say(open("/dev/null", O_RDONLY));
    } else if (!strcmp(word, "vfork")) {
      // What posix_spawn of old libraries does.
      pid_t child = vfork();
      if (!child) {
        for (int number = 3; number < 65536; number++) close(number);
        _exit(7);
      }
      int status;
      waitpid(child, &status, 0);
      say(WEXITSTATUS(status));
    } else if (!strcmp(word, "spawn")) {
      sscanf(line, "%*s %4095[^\n]", path);
      say(system(path));
    } else if (!strcmp(word, "fork")) {
      // The child goes on with the commands; the parent only waits for it.
      pid_t child = fork();
      if (child) {
        int status;
        waitpid(child, &status, 0);
        _exit(WEXITSTATUS(status));
      }
      say(0);
    } else if (!strcmp(word, "daemonize")) {
      // The parent is gone before the child goes on.
      int gate[2];
      char byte;
      if (pipe(gate)) _exit(1);
      if (fork()) _exit(0);
      close(gate[1]);
      if (read(gate[0], &byte, 1)) _exit(1);
      say(0);
    } else if (!strcmp(word, "cancel")) {
      // A thread that is cancelled in its read.
      pthread_t thread;
      void *result;
      pthread_create(&thread, 0, read_once, &fd);
      pthread_cancel(thread);
      pthread_join(thread, &result);
      say(result == PTHREAD_CANCELED);
    } else if (!strcmp(word, "readers")) {
      // Threads and children read one instance. The answer: numbers seen once, and seen otherwise.
      pthread_t threads[4];
      printf("ready\n");
      fflush(stdout);
      memset(seen, 0, sizeof seen);
      for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, read_until_end, &fd);
      for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
      int once = 0, otherwise = 0;
      for (unsigned i = 0; i < a; i++) seen[i] == 1 ? once++ : otherwise++;
      printf("%d %d\n", once, otherwise);
      fflush(stdout);
    } else {
      printf("unknown command\n");
      fflush(stdout);
    }
  }
  return 0;
}
