/*
 * guest-work: the only job of the test guest.
 *
 * It fills a region with pages whose contents are known in advance, says so on
 * the serial console, and from then on reads all of it a few times a second. If
 * the host ever shows the guest another byte than the one it wrote, it is told.
 * So a guest that was moved tells whether all of its memory came along.
 *
 * The kernel command line sets it up:
 *
 *   work=N   size of the region in MiB (default 64)
 *   room=N   MiB behind it that `fill` can take (default 0); untouched till then
 *   seed=S   unsigned number, different in each guest (default 0)
 *   tick=MS  pause between two checks in milliseconds (default 200)
 *
 * Page p of the region, in little-endian 64-bit words:
 *
 *   word[i] = mix(p, 0)                 + i * STEP  first half:  same in every guest
 *   word[i] = mix(p, S + 1)             + i * STEP  behind it: only in guests of seed S
 *   word[i] = mix(p, S + 1 + (v << 32)) + i * STEP  any page written anew, v = 1, 2 ...
 *
 * No two pages of one guest are alike, so the first half can be shared between
 * guests but not within one, and the second half not at all when seeds differ.
 *
 * What it does meanwhile is told to it on the second serial port (/dev/ttyS1;
 * it does without where there is none), a line a command:
 *
 *   rewrite N   from now on, give the next N pages new contents at each tick
 *   zero N      make N pages zero, from the end of the region: they stay zero,
 *               and are checked
 *   fill N      give N pages contents that had none: those that are zero first,
 *               then untouched ones of the room
 *
 * Each page's version is kept apart from the page, and the sum of all versions
 * apart from these: a page that is older than its version shows, and so do both
 * together.
 *
 * It prints, each line with one write():
 *
 *   guest-work: N MiB, P pages, the first H the same in every guest, seed S
 *   READY
 *   TICK n ok                   all pages are right; n counts from 1
 *   CORRUPT page p ...          page p is wrong (at most MAX_REPORTS a tick) ...
 *   CORRUPT versions ...        the versions do not add up
 *   TICK n corrupt c            ... and c pages (and sums) in all
 *   DID command                 a command was done, and is in force
 *
 * A command that it does not know, or cannot do, is answered with
 * "guest-work: FAILED ..." and nothing is changed.
 * A failed start prints "guest-work: FAILED ..." and exits with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
#define STEP UINT64_C(0x9e3779b97f4a7c15)
#define MAX_REPORTS 8
#define ZERO UINT32_MAX /* in place of a version: the page is zero */

struct region {
	volatile uint64_t *words; /* volatile: each check must read memory anew */
	volatile uint32_t *version;
	uint64_t pages; /* that are in use */
	uint64_t most;	/* with the room */
	uint64_t same;	/* pages below this one do not depend on the seed */
	uint64_t seed;
	uint64_t written; /* sum of all versions; a zero page counts as its last one */
	uint32_t *last;	  /* the last version of a page, also where it is zero */
	uint64_t zeros;
	uint64_t cursor; /* where rewriting goes on */
};

/* One line, one write: the kernel's messages cannot get into the middle. */
__attribute__((format(printf, 1, 2)))
static void say(const char *format, ...)
{
	char line[160];
	va_list args;

	va_start(args, format);
	int n = vsnprintf(line, sizeof line - 1, format, args);
	va_end(args);
	if (n < 0)
		return;
	if ((size_t)n > sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	for (int done = 0; done < n;) {
		ssize_t w = write(STDOUT_FILENO, line + done, n - done);
		if (w < 0 && errno != EINTR)
			return;
		if (w > 0)
			done += w;
	}
}

/* The number given as "name=..." on the kernel command line. */
static uint64_t parameter(const char *cmdline, const char *name, uint64_t otherwise)
{
	size_t len = strlen(name);

	for (const char *p = cmdline; *p;) {
		p += strspn(p, " \n");
		if (!strncmp(p, name, len) && p[len] == '=')
			return strtoull(p + len + 1, NULL, 0);
		p += strcspn(p, " \n");
	}
	return otherwise;
}

/*
 * Spread two small numbers over 64 bits; for one `b`, distinct `a` never meet.
 * STEP keeps page 0 from beginning with a zero word like an untouched page.
 */
static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a + b * UINT64_C(0xd1342543de82ef95) + STEP;

	x ^= x >> 32;
	x *= UINT64_C(0xff51afd7ed558ccd);
	x ^= x >> 29;
	x *= UINT64_C(0xc4ceb9fe1a85ec53);
	x ^= x >> 32;
	return x;
}

static uint64_t first_word(const struct region *r, uint64_t page, uint32_t version)
{
	if (version)
		return mix(page, r->seed + 1 + ((uint64_t)version << 32));
	return mix(page, page < r->same ? 0 : r->seed + 1);
}

static void write_page(struct region *r, uint64_t page, uint32_t version)
{
	volatile uint64_t *w = r->words + page * PAGE_WORDS;
	uint64_t value = version == ZERO ? 0 : first_word(r, page, version);
	uint64_t step = version == ZERO ? 0 : STEP;

	for (size_t i = 0; i < PAGE_WORDS; i++, value += step)
		w[i] = value;
	r->version[page] = version;
}

/* New contents, other than any before. */
static void renew(struct region *r, uint64_t page)
{
	r->written++;
	write_page(r, page, ++r->last[page]);
}

/* Says which pages are wrong, returns how many. */
static uint64_t check(const struct region *r)
{
	uint64_t wrong = 0, written = 0, zeros = 0;

	for (uint64_t page = 0; page < r->pages; page++) {
		const volatile uint64_t *w = r->words + page * PAGE_WORDS;
		uint32_t version = r->version[page];
		uint64_t value = version == ZERO ? 0 : first_word(r, page, version);
		uint64_t step = version == ZERO ? 0 : STEP, difference = 0;

		for (size_t i = 0; i < PAGE_WORDS; i++, value += step)
			difference |= w[i] ^ value;
		written += r->last[page];
		zeros += version == ZERO;
		if (difference && ++wrong <= MAX_REPORTS)
			say("CORRUPT page %llu of version %lld", (unsigned long long)page,
			    version == ZERO ? -1LL : (long long)version);
	}
	if (written != r->written || zeros != r->zeros) {
		wrong++;
		say("CORRUPT versions: %llu written and %llu zero, not %llu and %llu",
		    (unsigned long long)written, (unsigned long long)zeros,
		    (unsigned long long)r->written, (unsigned long long)r->zeros);
	}
	return wrong;
}

/* New contents for the next `n` pages that are not zero. */
static void rewrite(struct region *r, uint64_t n)
{
	while (n > 0) {
		if (r->cursor >= r->pages)
			r->cursor = 0;
		if (r->version[r->cursor] != ZERO) {
			renew(r, r->cursor);
			n--;
		}
		r->cursor++;
	}
}

static void zero(struct region *r, uint64_t n)
{
	for (uint64_t page = r->pages; n > 0; n--) {
		do
			page--;
		while (r->version[page] == ZERO);
		write_page(r, page, ZERO);
		r->zeros++;
	}
}

static void fill(struct region *r, uint64_t n)
{
	for (uint64_t page = 0; n > 0 && r->zeros > 0; page++)
		if (r->version[page] == ZERO) {
			renew(r, page);
			r->zeros--;
			n--;
		}
	for (; n > 0; n--)
		renew(r, r->pages++);
}

/* Does what a line says. Pages that are rewritten each tick: *rewrites. */
static void obey(struct region *r, const char *line, uint64_t *rewrites)
{
	unsigned long long n;
	uint64_t filled = r->pages - r->zeros;
	char more;

	if (sscanf(line, "rewrite %llu%c", &n, &more) == 1 && n <= filled)
		*rewrites = n;
	else if (sscanf(line, "zero %llu%c", &n, &more) == 1 && n <= filled && filled - n >= *rewrites)
		zero(r, n);
	else if (sscanf(line, "fill %llu%c", &n, &more) == 1 && n <= r->most - filled)
		fill(r, n);
	else {
		say("guest-work: FAILED: cannot '%s'", line);
		return;
	}
	say("DID %s", line);
}

/* The second serial port, without echo and as bytes; -1 where there is none. */
static int commands(void)
{
	struct termios raw;
	int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &raw) < 0) { /* a port that is not there opens, and fails here */
		if (fd >= 0)
			close(fd);
		return -1;
	}
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	return fd;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Obeys for `ms` milliseconds. */
static void listen_for(struct region *r, int fd, uint64_t ms, uint64_t *rewrites)
{
	static char line[64];
	static size_t length;
	uint64_t end = now_ms() + ms;

	for (uint64_t now; (now = now_ms()) < end;) {
		struct pollfd p = { .fd = fd, .events = POLLIN }; /* -1 is passed over */
		char c;

		if (poll(&p, 1, (int)(end - now)) <= 0)
			continue;
		while (read(fd, &c, 1) == 1) {
			if (c != '\n' && length < sizeof line - 1) {
				line[length++] = c;
				continue;
			}
			line[length] = 0;
			length = 0;
			obey(r, line, rewrites);
		}
	}
}

static void *memory(uint64_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(void)
{
	char cmdline[4096] = "";
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, cmdline, sizeof cmdline - 1) < 0) {
		say("guest-work: FAILED to read the kernel command line: %s", strerror(errno));
		return 1;
	}
	close(fd);

	uint64_t mib = parameter(cmdline, "work", 64), room = parameter(cmdline, "room", 0);
	uint64_t tick_ms = parameter(cmdline, "tick", 200), rewrites = 0;
	struct region r = {
		.pages = mib * ((1 << 20) / PAGE_BYTES),
		.most = (mib + room) * ((1 << 20) / PAGE_BYTES),
		.same = mib * ((1 << 20) / PAGE_BYTES) / 2,
		.seed = parameter(cmdline, "seed", 0),
	};

	if (mib == 0 || mib > 1 << 20 || room > 1 << 20) {
		say("guest-work: FAILED: work=%llu room=%llu is no size in MiB",
		    (unsigned long long)mib, (unsigned long long)room);
		return 1;
	}
	void *words = memory(r.most * PAGE_BYTES);
	void *version = memory(r.most * sizeof *r.version);
	void *last = memory(r.most * sizeof *r.last);
	if (words == MAP_FAILED || version == MAP_FAILED || last == MAP_FAILED) {
		say("guest-work: FAILED to get %llu MiB: %s", (unsigned long long)(mib + room),
		    strerror(errno));
		return 1;
	}
	r.words = words;
	r.version = version;
	r.last = last;
	int told = commands();

	say("guest-work: %llu MiB, %llu pages, the first %llu the same in every guest, seed %llu",
	    (unsigned long long)mib, (unsigned long long)r.pages,
	    (unsigned long long)r.same, (unsigned long long)r.seed);
	for (uint64_t page = 0; page < r.pages; page++)
		write_page(&r, page, 0);
	say("READY");

	for (unsigned long long tick = 1;; tick++) {
		listen_for(&r, told, tick_ms, &rewrites);
		rewrite(&r, rewrites);
		uint64_t wrong = check(&r);
		if (wrong)
			say("TICK %llu corrupt %llu", tick, (unsigned long long)wrong);
		else
			say("TICK %llu ok", tick);
	}
}
