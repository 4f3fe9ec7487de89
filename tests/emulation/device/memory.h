#pragma once

// The memory of the emulated devices, which the host cannot touch.
//
// A device's memory is mapped twice. Tensors have addresses of the first mapping, which
// nobody may access but while a kernel of that device runs: the host's reads and writes
// end the process, with an explanation. Copies and PyTorch's own operators, which the
// CPU computes, go by the second mapping.

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace emulation {

constexpr int kDevices = 2;

struct StreamKey {
  int device;
  int64_t id;

  auto operator<=>(const StreamKey&) const = default;
  std::string name() const;
};

// A moment of a stream: when its work up to this number is done.
struct Point {
  StreamKey stream{-1, 0};
  uint64_t number = 0;  // 0: before everything
};

struct Allocation {
  uintptr_t begin;
  size_t bytes;
  StreamKey stream;  // where it was allocated
  Point written;     // the last
  std::map<StreamKey, uint64_t> read;
  std::set<StreamKey> recorded;  // streams that its release waits for
  int pending = 0;               // queued kernels that use it
  bool freed = false;
};

// All functions are called under the lock of streams.h.

Allocation* make_allocation(size_t bytes, StreamKey stream);
void drop_allocation(Allocation* block);
// All that was allocated on a stream, as if it had been on another.
void give_allocations(StreamKey from, StreamKey to);

// The allocation that an address points into, or its end; null if there is none.
Allocation* find_allocation(uintptr_t address);

// The device whose memory an address points into, -1 for none.
int device_of(uintptr_t address);

// The same memory in the mapping that the host may use.
void* host_view(const void* address);

// While it lives, the device's memory may be accessed.
class Open {
 public:
  explicit Open(int device);
  ~Open();
  Open(const Open&) = delete;

 private:
  void allow(int access) const;

  int device_;
  size_t bytes_;
};

}  // namespace emulation
