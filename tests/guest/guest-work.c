/*
 * guest-work: the only job of the test guest.
 *
 * It fills a region with pages whose contents are known in advance, says so on
 * the serial console, and from then on reads all of it once a second. If the
 * host ever shows the guest another byte than the one it wrote, it is told.
 *
 * The kernel command line sets it up:
 *
 *   work=N   size of the region in MiB (default 64)
 *   seed=S   unsigned number, different in each guest (default 0)
 *
 * Page p of the region, in little-endian 64-bit words:
 *
 *   word[i] = mix(p, 0)         + i * STEP    first half:  same in every guest
 *   word[i] = mix(p, S + 1)     + i * STEP    second half: only in guests of seed S
 *
 * No two pages of one guest are alike, so the first half can be shared between
 * guests but not within one, and the second half not at all when seeds differ.
 *
 * It prints, each line with one write():
 *
 *   guest-work: N MiB, P pages, the first H the same in every guest, seed S
 *   READY
 *   TICK n ok                   all pages are right; n counts from 1
 *   CORRUPT page p              page p is wrong (at most MAX_REPORTS a tick) ...
 *   TICK n corrupt c            ... and c pages in all
 *
 * A failed start prints "guest-work: FAILED ..." and exits with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
#define STEP UINT64_C(0x9e3779b97f4a7c15)
#define MAX_REPORTS 8

struct region {
	volatile uint64_t *words; /* volatile: each check must read memory anew */
	uint64_t pages;
	uint64_t same; /* pages below this one do not depend on the seed */
	uint64_t seed;
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

static uint64_t first_word(const struct region *r, uint64_t page)
{
	return mix(page, page < r->same ? 0 : r->seed + 1);
}

static void fill(const struct region *r)
{
	for (uint64_t page = 0; page < r->pages; page++) {
		volatile uint64_t *w = r->words + page * PAGE_WORDS;
		uint64_t value = first_word(r, page);

		for (size_t i = 0; i < PAGE_WORDS; i++, value += STEP)
			w[i] = value;
	}
}

/* Says which pages are wrong, returns how many. */
static uint64_t check(const struct region *r)
{
	uint64_t wrong = 0;

	for (uint64_t page = 0; page < r->pages; page++) {
		const volatile uint64_t *w = r->words + page * PAGE_WORDS;
		uint64_t value = first_word(r, page), difference = 0;

		for (size_t i = 0; i < PAGE_WORDS; i++, value += STEP)
			difference |= w[i] ^ value;
		if (difference && ++wrong <= MAX_REPORTS)
			say("CORRUPT page %llu", (unsigned long long)page);
	}
	return wrong;
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

	uint64_t mib = parameter(cmdline, "work", 64);
	struct region r = {
		.pages = mib * ((1 << 20) / PAGE_BYTES),
		.same = mib * ((1 << 20) / PAGE_BYTES) / 2,
		.seed = parameter(cmdline, "seed", 0),
	};

	if (mib == 0 || mib > 1 << 20) {
		say("guest-work: FAILED: work=%llu is no size in MiB", (unsigned long long)mib);
		return 1;
	}
	void *memory = mmap(NULL, r.pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		say("guest-work: FAILED to get %llu MiB: %s", (unsigned long long)mib, strerror(errno));
		return 1;
	}
	r.words = memory;

	say("guest-work: %llu MiB, %llu pages, the first %llu the same in every guest, seed %llu",
	    (unsigned long long)mib, (unsigned long long)r.pages,
	    (unsigned long long)r.same, (unsigned long long)r.seed);
	fill(&r);
	say("READY");

	for (unsigned long long tick = 1;; tick++) {
		nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
		uint64_t wrong = check(&r);
		if (wrong)
			say("TICK %llu corrupt %llu", tick, (unsigned long long)wrong);
		else
			say("TICK %llu ok", tick);
	}
}
