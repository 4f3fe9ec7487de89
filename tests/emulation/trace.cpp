// Counts the 32-byte sectors that each warp's loads and stores touch, against the
// fewest that could hold their bytes. The operators are compiled with
// -fsanitize=thread, which calls a function at each access; here these functions are
// ours, in ThreadSanitizer's place. The n-th access of each of a warp's threads from
// one place of the program, which is the path of calls that led there, is one access of
// the warp. A block's loads are counted together, too: the sectors that no warp of it
// has touched before come from beyond its multiprocessor's cache. Of shared memory,
// where a kernel tells of it (shared_memory.h), what counts is the wavefronts that an
// access takes, since a bank gives one word in each.

#include <dlfcn.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <unordered_map>

#include "device/memory.h"
#include "executor.h"
#define TRAJGRU_TRACE
#include "shared_memory.h"

namespace {

constexpr uintptr_t kSector = 32;
constexpr uintptr_t kBanks = 32, kWord = 4;

struct Access {
  uintptr_t from, to;
  unsigned thread;

  auto operator<=>(const Access&) const = default;
};

struct Place {
  const char* kind;
  uintptr_t bytes;              // of one thread
  std::vector<uintptr_t> path;  // return addresses, the innermost last

  auto operator<=>(const Place&) const = default;
};

struct Count {
  int64_t accesses = 0, sectors = 0, fewest = 0;
};

struct Thread {
  std::vector<uintptr_t> calls;
  std::map<Place, unsigned> turns;
};

struct Turn {
  Place place;
  unsigned warp, number;

  auto operator<=>(const Turn&) const = default;
};

std::map<Place, Count> counts;
std::unordered_map<unsigned, Thread> threads;  // of the block
std::map<Turn, std::vector<Access>> turns;

constexpr auto kBank = "bank", kLoad = "load", kBlockLoads = "block";

void note(const char* kind, uintptr_t at, uintptr_t bytes, void* from) {
  Thread& thread = threads[emulation::self->index];
  Place place{kind, bytes, thread.calls};
  place.path.push_back(reinterpret_cast<uintptr_t>(from));
  const unsigned number = thread.turns[place]++;
  const unsigned index = emulation::self->index;
  turns[{place, index / emulation::kWarp, number}].push_back({at, at + bytes, index});
}

void access(const char* kind, const volatile void* data, uintptr_t bytes, void* from) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  // Other accesses than those to tensors are to the stack and to arguments.
  if (emulation::self == nullptr || emulation::device_of(at) < 0) return;
  note(kind, at, bytes, from);
}

// Of a warp's threads, in their order, which need not be that in which they were run
// here: as many as want all banks' words go together.
void count_wavefronts(std::vector<Access>& accesses, uintptr_t bytes, Count& count) {
  std::sort(accesses.begin(), accesses.end(),
            [](const Access& a, const Access& b) { return a.thread < b.thread; });
  const size_t together = kBanks * kWord / std::max(bytes, kWord);
  for (size_t first = 0; first < accesses.size(); first += together) {
    std::set<uintptr_t> words;
    const size_t end = std::min(first + together, accesses.size());
    for (size_t n = first; n < end; ++n) {
      for (uintptr_t w = accesses[n].from / kWord; w * kWord < accesses[n].to; ++w) {
        words.insert(w);
      }
    }
    uintptr_t of_bank[kBanks] = {};
    for (const uintptr_t word : words) ++of_bank[word % kBanks];
    count.sectors += *std::max_element(of_bank, of_bank + kBanks);
    count.fewest += (words.size() + kBanks - 1) / kBanks;
  }
}

// Of all loads of the block, wherever in its kernel, and what its warps want at least.
void count_block(const std::set<uintptr_t>& sectors, int64_t fewest,
                 const Place& place) {
  if (sectors.empty()) return;
  Count& count = counts[{kBlockLoads, 0, place.path}];
  ++count.accesses;
  count.sectors += sectors.size();
  count.fewest += fewest;
}

void end_block() {
  std::set<uintptr_t> loaded;
  int64_t wanted = 0;
  const Place* load = nullptr;
  for (auto& [turn, accesses] : turns) {
    if (turn.place.kind == kBank) {
      Count& count = counts[turn.place];
      ++count.accesses;
      count_wavefronts(accesses, turn.place.bytes, count);
      continue;
    }
    std::sort(accesses.begin(), accesses.end());
    std::set<uintptr_t> sectors;
    uintptr_t distinct = 0, end = 0;
    for (const auto& [from, to, thread] : accesses) {
      for (uintptr_t s = from / kSector; s * kSector < to; ++s) sectors.insert(s);
      distinct += std::max(end, to) - std::max(end, from);
      end = std::max(end, to);
    }
    Count& count = counts[turn.place];
    const int64_t fewest = (distinct + kSector - 1) / kSector;
    ++count.accesses;
    count.sectors += sectors.size();
    count.fewest += fewest;
    if (turn.place.kind != kLoad) continue;
    loaded.insert(sectors.begin(), sectors.end());
    wanted += fewest;
    load = &turn.place;
  }
  if (load != nullptr) count_block(loaded, wanted, *load);
  turns.clear();
  threads.clear();
}

}  // namespace

#define FROM __builtin_return_address(0)
#define EXPORTED __attribute__((visibility("default")))

// Of shared memory.
void emulation::note_shared(const void* at, size_t bytes) {
  note(kBank, reinterpret_cast<uintptr_t>(at), bytes, FROM);
}

extern "C" {

// What kernels do from here on is traced.
EXPORTED void trace_begin() {
  emulation::block_done = end_block;
}

// "kind bytes accesses sectors fewest path" lines (or wavefronts) of what has run since
// the last call, the path as offsets within this library.
EXPORTED const char* trace_lines() {
  static std::string lines;
  Dl_info library;
  dladdr(reinterpret_cast<void*>(&trace_lines), &library);
  std::ostringstream out;
  for (const auto& [place, count] : counts) {
    out << place.kind << ' ' << place.bytes << ' ' << count.accesses << ' '
        << count.sectors << ' ' << count.fewest << std::hex;
    for (const uintptr_t address : place.path) {
      out << ' ' << address - 1 - reinterpret_cast<uintptr_t>(library.dli_fbase);
    }
    out << std::dec << '\n';
  }
  counts.clear();
  lines = out.str();
  return lines.c_str();
}

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void __tsan_func_entry(void* caller) {
  if (emulation::self == nullptr) return;
  threads[emulation::self->index].calls.push_back(reinterpret_cast<uintptr_t>(caller));
}

void __tsan_func_exit() {
  if (emulation::self == nullptr) return;
  auto& calls = threads[emulation::self->index].calls;
  if (!calls.empty()) calls.pop_back();
}

#define ACCESSES(bytes)                          \
  void __tsan_read##bytes(void* at) {            \
    access(kLoad, at, bytes, FROM);              \
  }                                              \
  void __tsan_write##bytes(void* at) {           \
    access("store", at, bytes, FROM);            \
  }                                              \
  void __tsan_unaligned_read##bytes(void* at) {  \
    access(kLoad, at, bytes, FROM);              \
  }                                              \
  void __tsan_unaligned_write##bytes(void* at) { \
    access("store", at, bytes, FROM);            \
  }

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* at, size_t bytes) {
  access(kLoad, at, bytes, FROM);
}
void __tsan_write_range(void* at, size_t bytes) {
  access("store", at, bytes, FROM);
}

// The emulation adds by comparing and exchanging; others are of the host.
#define COMPARE_EXCHANGE(bits, strength)                                           \
  int __tsan_atomic##bits##_compare_exchange_##strength(A##bits* at, A##bits* old, \
                                                        A##bits v, int, int) {     \
    access("atomic", at, bits / 8, FROM);                                          \
    return __atomic_compare_exchange_n(at, old, v, false, __ATOMIC_SEQ_CST,        \
                                       __ATOMIC_SEQ_CST);                          \
  }
#define ATOMICS(bits)                                                    \
  using A##bits = uint##bits##_t;                                        \
  A##bits __tsan_atomic##bits##_load(A##bits* at, int) {                 \
    return *at;                                                          \
  }                                                                      \
  void __tsan_atomic##bits##_store(A##bits* at, A##bits v, int) {        \
    *at = v;                                                             \
  }                                                                      \
  A##bits __tsan_atomic##bits##_exchange(A##bits* at, A##bits v, int) {  \
    return __atomic_exchange_n(at, v, __ATOMIC_SEQ_CST);                 \
  }                                                                      \
  A##bits __tsan_atomic##bits##_fetch_add(A##bits* at, A##bits v, int) { \
    return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST);                  \
  }                                                                      \
  A##bits __tsan_atomic##bits##_fetch_sub(A##bits* at, A##bits v, int) { \
    return __atomic_fetch_sub(at, v, __ATOMIC_SEQ_CST);                  \
  }                                                                      \
  COMPARE_EXCHANGE(bits, strong)                                         \
  COMPARE_EXCHANGE(bits, weak)

ATOMICS(8)
ATOMICS(32)
ATOMICS(64)
}
