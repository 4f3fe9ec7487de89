#pragma once

// Streams of the emulated devices: queues of kernels that run as late as is legal, or
// in an order drawn at random; and the rules of who may use which memory when.
//
// Kernels are queued. PyTorch's operators, which the CPU computes, run at once, after
// what their stream has queued and what that waits for; work of other streams is left
// where it is, or some of it runs, at random. Where two streams use the same memory,
// one of them writing, an event or the host must come between them. A kernel writes
// where it is given a pointer that is not to const.

#include <c10/core/Stream.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/memory.h"

namespace emulation {

struct Use {
  Allocation* block;
  bool writes;
};

using Seen = std::map<StreamKey, uint64_t>;  // of each stream, what is done before

struct RecordedEvent {
  Point point;
  Seen seen;
};

std::recursive_mutex& lock();

int current_device();
void set_current_device(int device);
StreamKey current_stream(int device);
void set_current_stream(StreamKey stream);
StreamKey new_stream(int device);

// Queue work, or do what is before it, so that the caller can do it.
void queue(const char* what, StreamKey stream, const std::vector<Use>& uses,
           std::function<void()> work);
void begin(const char* what, StreamKey stream, const std::vector<Use>& uses,
           bool counted = true, int64_t bytes = 0);

// How often each kind of work was done since this was last asked, and the bytes that it
// read and wrote, where these are known: not of kernels.
struct Count {
  int64_t times = 0, bytes = 0;
};
void add_count(const char* what, int64_t times, int64_t bytes);
std::map<std::string, Count> take_counts();

RecordedEvent record(StreamKey stream);
void wait(StreamKey stream, const RecordedEvent& event);

// The host waits for all work so far.
void synchronize(StreamKey stream);
void synchronize(const RecordedEvent& event);
void synchronize_device(int device);
// Each waits for what the other has been given so far.
void join(StreamKey one, StreamKey other);

void* allocate(size_t bytes, int device);
void release(void* data);
void record_stream(void* data, StreamKey stream);

// Bytes of a device's tensors, as they were asked for: now, and at most since this was
// reset. Memory counts until it is released, though a queued kernel may still use it.
struct AllocatedBytes {
  int64_t now = 0, peak = 0;
};
AllocatedBytes& allocated_bytes(int device);

// Of all streams the work runs as late as it can (0), or some of it earlier, at random.
void shuffle(uint64_t seed);

// While a stream is captured, what a CUDA graph cannot hold is an error. Streams that
// wait for it are captured with it, and it must wait for all of these before the end.
// The graph then runs on another stream, which its memory belongs to.
void begin_capture(StreamKey stream);
void end_capture(StreamKey replaying);
bool capturing(StreamKey stream);
void not_captured(const char* what);

// Throws what was found where nothing can be thrown.
void raise_faults();

}  // namespace emulation
