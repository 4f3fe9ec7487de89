// Preloaded by many_cores.py: runs the parallel regions of trajgru_ext, and torch's own,
// as they would be cut for any number of threads, part after part on one thread, and
// notes how long each part takes. What torch calls, as oneDNN, finds one thread.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*Region)(void *);

typedef struct {
  int64_t region;  // its function, from the start of the library; 0: one of torch's
  int64_t call;    // the how many-th region that ran
  int64_t nanoseconds;
} Part;

static int threads = 0;  // that torch seems to have; 0: all is as without this library
static int cuts = 0;     // that a region is offered
static int64_t calls = 0, count = 0, room = 0;
static Part *parts = NULL;

static __thread int inside = 0, number = 0, busy = 0;

static void *original(const char *library, const char *name) {
  return dlsym(dlopen(library, RTLD_NOLOAD | RTLD_LAZY), name);
}

#define ORIGINAL(library, name, result, ...)                               \
  static result (*known)(__VA_ARGS__) = NULL;                              \
  if (known == NULL) known = (result(*)(__VA_ARGS__))original(library, name)

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

void many_cores_begin(int wanted, int offered) {
  threads = wanted;
  cuts = offered;
  calls = count = 0;
}

void many_cores_end(void) { threads = 0; }

int64_t many_cores_count(void) { return count; }

const Part *many_cores_parts(void) { return parts; }

static void note(int64_t region, int64_t nanoseconds) {
  if (count == room) {
    room = 2 * room + 4096;
    parts = realloc(parts, room * sizeof(Part));
  }
  parts[count++] = (Part){region, calls, nanoseconds};
}

enum Whose { kOurs, kTorchs, kOthers };

typedef struct {
  Region region;
  enum Whose whose;
  int64_t offset;  // of ours
} Known;

// Whose the region is, remembered: dladdr reads a library's whole table of symbols.
static const Known *known_region(Region region) {
  static Known seen[4096];
  static int many = 0;
  for (int k = 0; k < many; ++k)
    if (seen[k].region == region) return &seen[k];
  if (many == sizeof(seen) / sizeof(*seen)) abort();
  Known *new = &seen[many++];
  *new = (Known){region, kOthers, 0};
  Dl_info info;
  if (dladdr((void *)region, &info)) {
    if (strstr(info.dli_fname, "libtorch_cpu.so") != NULL) new->whose = kTorchs;
    if (strstr(info.dli_fname, "trajgru_ext/_C.") != NULL) {
      new->whose = kOurs;
      new->offset = (char *)region - (char *)info.dli_fbase;
    }
  }
  return new;
}

void GOMP_parallel(Region region, void *data, unsigned wanted, unsigned flags) {
  ORIGINAL("libgomp.so.1", "GOMP_parallel", void, Region, void *, unsigned, unsigned);
  const Known *of = threads > 0 && !inside ? known_region(region) : NULL;
  if (of == NULL || of->whose == kOthers) {
    known(region, data, wanted, flags);
    return;
  }
  inside = 1;
  for (number = 0; number < cuts; ++number) {
    busy = 0;
    const int64_t begun = now();
    region(data);
    const int64_t taken = now() - begun;
    if (!busy) break;  // the later ones have nothing to do either
    note(of->offset, taken);
  }
  inside = 0;
  ++calls;
}

int omp_get_num_threads(void) {
  ORIGINAL("libgomp.so.1", "omp_get_num_threads", int, void);
  return inside ? cuts : known();
}

int omp_get_thread_num(void) {
  ORIGINAL("libgomp.so.1", "omp_get_thread_num", int, void);
  return inside ? number : known();
}

int omp_in_parallel(void) {
  ORIGINAL("libgomp.so.1", "omp_in_parallel", int, void);
  return inside ? 1 : known();
}

void omp_set_num_threads(int wanted) {
  ORIGINAL("libgomp.so.1", "omp_set_num_threads", void, int);
  if (threads == 0) known(wanted);
}

// at::get_num_threads()
int _ZN2at15get_num_threadsEv(void) {
  ORIGINAL("libtorch_cpu.so", "_ZN2at15get_num_threadsEv", int, void);
  return threads > 0 ? threads : known();
}

// at::internal::set_thread_num(int), which a part that has work to do calls first.
void _ZN2at8internal14set_thread_numEi(int to) {
  ORIGINAL("libtorch_cpu.so", "_ZN2at8internal14set_thread_numEi", void, int);
  if (inside) busy = 1;
  known(to);
}
