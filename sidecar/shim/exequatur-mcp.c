/* The agent's end of an MCP door: `exequatur-mcp NAME` joins standard input and output to the Unix socket
 * ../mcp/NAME/NAME.sock, seen from the folder where this program lies. Exit codes: 0 when the door has closed in order,
 * 69 when it cannot be reached or is lost, 2 for a wrong call.
 *
 * Rules: each direction has one buffer and neither waits for the other, so that a slow reader holds up itself alone;
 * the end of input is passed on, and what is still on its way back is waited for. Nothing is read or changed. What lies
 * at the socket's path is the server's to choose: a link there, to another door say, leads nowhere. */
#define _GNU_SOURCE /* O_PATH */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { USAGE = 2, GONE = 69, ROOM = 65536 };

struct way {
    char data[ROOM];
    size_t from, to; /* what of `data` is still to be written */
};

static struct way in, out;

static int fail(const char *what) {
    fprintf(stderr, "exequatur-mcp: %s: %s\n", what, strerror(errno));
    return GONE;
}

static int later(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* Connect to the socket of the door NAME; -1 and errno where that cannot be. */
static int reach(const char *name) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char here[PATH_MAX], path[2 * PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", here, sizeof here - 1);
    if (length < 0) return -1;
    while (length > 0 && here[length - 1] != '/') length--;
    int wanted = snprintf(path, sizeof path, "%.*s../mcp/%s/%s.sock", (int)length, here, name, name);
    if ((size_t)wanted >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int lies = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (lies < 0) return -1;
    snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d", lies); /* that very socket: no link is followed */
    int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (door < 0 || connect(door, (struct sockaddr *)&at, sizeof at) < 0) return -1;
    close(lies);
    return door;
}

static int join(int door) {
    for (int talking = 1, lost = 0;;) {
        int hear = talking && in.from == in.to, tell = in.from < in.to, take = out.from == out.to;
        short events = (short)((tell ? POLLOUT : 0) | (take ? POLLIN : 0));
        /* What is not waited for is left out: its end would be reported again and again. */
        struct pollfd on[] = {{hear ? STDIN_FILENO : -1, POLLIN, 0},
                              {events ? door : -1, events, 0},
                              {take ? -1 : STDOUT_FILENO, POLLOUT, 0}};
        if (poll(on, 3, -1) < 0 && errno != EINTR) return fail("cannot wait");
        if (on[0].revents) {
            ssize_t n = read(STDIN_FILENO, in.data, ROOM);
            if (n > 0) in.from = 0, in.to = (size_t)n;
            if (n == 0 || (n < 0 && !later())) talking = 0, shutdown(door, SHUT_WR);
        }
        if (tell && on[1].revents & (POLLOUT | POLLERR | POLLHUP)) {
            ssize_t n = send(door, in.data + in.from, in.to - in.from, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n > 0) in.from += (size_t)n;
            if (n < 0 && !later()) talking = 0, in.from = in.to, lost = errno; /* it may still have spoken */
        }
        if (take && on[1].revents & (POLLIN | POLLERR | POLLHUP)) {
            ssize_t n = recv(door, out.data, ROOM, MSG_DONTWAIT);
            if (n > 0) out.from = 0, out.to = (size_t)n;
            if (n == 0 && !lost) return 0;
            if (n == 0) errno = lost;
            if (n == 0 || (n < 0 && !later())) return fail("the door is lost");
        }
        if (on[2].revents) {
            size_t left = out.to - out.from; /* no more at once than a pipe that is ready takes without a wait */
            ssize_t n = write(STDOUT_FILENO, out.data + out.from, left < 4096 ? left : 4096);
            if (n > 0) out.from += (size_t)n;
            if (n < 0 && !later()) return fail("standard output");
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 2 || !*argv[1] || strchr("-.", *argv[1]) || strchr(argv[1], '/')) {
        fputs("exequatur-mcp: give the name of a door, as `exequatur-mcp git`\n", stderr);
        return USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    int door = reach(argv[1]);
    return door < 0 ? fail(argv[1]) : join(door);
}
