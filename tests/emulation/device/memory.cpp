#include "device/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes)
#endif

namespace emulation {
namespace {

// Address space alone: memory is taken where it is written to. ThreadSanitizer has room
// for less.
#if defined(__SANITIZE_THREAD__)
constexpr size_t kDeviceBytes = size_t(1) << 34;
#else
constexpr size_t kDeviceBytes = size_t(1) << 38;
#endif
// Blocks lie in the upper half: what a kernel reads far before its tensors is no
// memory.
constexpr size_t kFirst = kDeviceBytes / 2;
constexpr size_t kPage = 4096;
// As CUDA's caching allocator.
constexpr size_t kAlignment = 512;
// What was freed is filled, so that reading it shows, unless that would take long; the
// pages of large blocks are given back, and then read as 0.
constexpr size_t kMostFilled = size_t(1) << 26;

size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

struct Arena {
  int file = -1;
  char* device = nullptr;  // the mapping that tensors point into
  char* host = nullptr;
  size_t used = kFirst;                                     // the end of the last block
  std::map<uintptr_t, std::unique_ptr<Allocation>> blocks;  // by begin
  std::map<uintptr_t, size_t> gaps;                         // begin, bytes

  Arena() {
    file = memfd_create("emulated device", 0);
    if (file < 0 || ftruncate(file, kDeviceBytes) != 0) {
      throw std::runtime_error("emulation: no memory for a device");
    }
    device = map(PROT_NONE);
    host = map(PROT_READ | PROT_WRITE);
    gaps[reinterpret_cast<uintptr_t>(device) + kFirst] = kDeviceBytes - kFirst;
  }

  char* map(int access) const {
    void* found =
        mmap(nullptr, kDeviceBytes, access, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (found == MAP_FAILED) throw std::runtime_error("emulation: no address space");
    return static_cast<char*>(found);
  }

  bool holds(uintptr_t address) const {
    return address - reinterpret_cast<uintptr_t>(device) < kDeviceBytes;
  }

  size_t offset(uintptr_t address) const {
    return address - reinterpret_cast<uintptr_t>(device);
  }
};

// Never destroyed: tensors may live longer than anything here.
std::array<Arena, kDevices>& arenas() {
  static auto* all = new std::array<Arena, kDevices>();
  return *all;
}

int running = -1;  // the device whose kernel runs

struct sigaction before;

void say(const char* text) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
}

// Explains an access to a device's memory, then leaves the signal to whoever had it.
void explain(int signal, siginfo_t* info, void*) {
  const int device = device_of(reinterpret_cast<uintptr_t>(info->si_addr));
  if (device >= 0) {
    say(running >= 0 ? "\nemulated: a kernel" : "\nemulated: the host");
    say(" accessed memory of ");
    say(device == 0 ? "emulated:0" : "emulated:1");
    say(running < 0         ? ", which only its kernels and copies may\n"
        : device != running ? ", which is another device\n"
                            : " outside of all tensors\n");
  }
  sigaction(signal, &before, nullptr);
}

const bool explains = [] {
#if !defined(__SANITIZE_THREAD__)
  arenas();
  struct sigaction action = {};
  action.sa_sigaction = &explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
#endif
  return true;
}();

}  // namespace

std::string StreamKey::name() const {
  return "stream " + std::to_string(id) + " of emulated:" + std::to_string(device);
}

int device_of(uintptr_t address) {
  for (int k = 0; k < kDevices; ++k) {
    if (arenas()[k].holds(address)) return k;
  }
  return -1;
}

void* host_view(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  const int device = device_of(at);
  if (device < 0) return const_cast<void*>(address);  // nothing at all
  const Arena& arena = arenas()[device];
  return arena.host + (at - reinterpret_cast<uintptr_t>(arena.device));
}

Allocation* make_allocation(size_t bytes, StreamKey stream) {
  Arena& arena = arenas().at(stream.device);
  // Some room behind each block, so that neither it nor the next begins there.
  const size_t room = round_up(bytes + 1, kAlignment);
  const auto gap = std::find_if(arena.gaps.begin(), arena.gaps.end(),
                                [&](const auto& one) { return one.second >= room; });
  if (gap == arena.gaps.end()) throw std::bad_alloc();
  const auto [begin, left] = *gap;
  arena.gaps.erase(gap);
  if (left > room) arena.gaps[begin + room] = left - room;
  arena.used = std::max(arena.used, arena.offset(begin) + room);
  void* at = reinterpret_cast<void*>(begin);
  if (room <= kMostFilled) std::memset(host_view(at), 0xff, room);
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(at) + bytes, room - bytes);
  auto block = std::make_unique<Allocation>(Allocation{begin, bytes, stream});
  return (arena.blocks[begin] = std::move(block)).get();
}

void drop_allocation(Allocation* block) {
  Arena& arena = arenas().at(block->stream.device);
  uintptr_t begin = block->begin;
  size_t room = round_up(block->bytes + 1, kAlignment);
  char* host = static_cast<char*>(host_view(reinterpret_cast<void*>(begin)));
  if (room <= kMostFilled) {
    std::memset(host, 0xff, room);
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(begin), room);
  } else {
    const auto from = round_up(host - arena.host, kPage);
    const auto to = (host - arena.host + room) / kPage * kPage;
    madvise(arena.host + from, to - from, MADV_REMOVE);
  }
  arena.blocks.erase(begin);
  auto gap = arena.gaps.emplace(begin, room).first;
  const auto next = std::next(gap);
  if (next != arena.gaps.end() && next->first == begin + room) {
    gap->second += next->second;
    arena.gaps.erase(next);
  }
  if (gap != arena.gaps.begin()) {
    const auto last = std::prev(gap);
    if (last->first + last->second == begin) {
      last->second += gap->second;
      arena.gaps.erase(gap);
      gap = last;
    }
  }
  // The last gap is the rest of the device.
  arena.used = arena.offset(arena.gaps.rbegin()->first);
}

void give_allocations(StreamKey from, StreamKey to) {
  for (const auto& [begin, block] : arenas().at(from.device).blocks) {
    if (block->stream == from) block->stream = to;
  }
}

Allocation* find_allocation(uintptr_t address) {
  const int device = device_of(address);
  if (device < 0) return nullptr;
  const auto& blocks = arenas()[device].blocks;
  const auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return nullptr;
  Allocation* block = std::prev(after)->second.get();
  return address <= block->begin + block->bytes ? block : nullptr;
}

Open::Open(int device)
    : device_(device), bytes_(round_up(arenas().at(device).used - kFirst, kPage)) {
  allow(PROT_READ | PROT_WRITE);
  running = device;
}

Open::~Open() {
  running = -1;
  allow(PROT_NONE);
}

void Open::allow(int access) const {
  if (bytes_ == 0) return;
  if (mprotect(arenas()[device_].device + kFirst, bytes_, access) != 0) {
    say("\nemulated: the system does not change who may access memory\n");
    std::abort();
  }
}

}  // namespace emulation
