#include "device/streams.h"

#include <c10/util/Exception.h>

#include <array>
#include <deque>
#include <random>
#include <string>
#include <utility>

namespace emulation {
namespace {

struct Task {
  uint64_t number;
  std::function<void()> work;
  std::vector<Allocation*> blocks;
  Point after;  // of another stream, which comes first
};

struct StreamState {
  uint64_t given = 0;  // the number of the last work
  Seen seen;
  std::deque<Task> tasks;
};

// Never destroyed, as memory.cpp's.
auto& streams = *new std::map<StreamKey, StreamState>();
auto& host_seen = *new Seen();
auto& faults = *new std::vector<std::string>();
auto& chance = *new std::mt19937_64();
auto& counts = *new std::map<std::string, Count>();
bool shuffled = false;
std::optional<Point> captured;

thread_local int device_now = 0;
thread_local std::array<int64_t, kDevices> streams_now = {};

void merge(Seen& into, const Seen& from) {
  for (const auto& [stream, number] : from) {
    into[stream] = std::max(into[stream], number);
  }
}

bool after(const Seen& seen, const Point& point) {
  if (point.number == 0) return true;
  const auto found = seen.find(point.stream);
  return found != seen.end() && found->second >= point.number;
}

// Whether who has seen this much belongs to the capture: it began before.
bool in_capture(const Seen& seen) {
  return captured && after(seen, *captured);
}

void finish(Task& task) {
  for (Allocation* block : task.blocks) {
    if (--block->pending == 0 && block->freed) drop_allocation(block);
  }
}

void run_until(const Point& point) {
  auto& tasks = streams[point.stream].tasks;
  while (!tasks.empty() && tasks.front().number <= point.number) {
    Task task = std::move(tasks.front());
    tasks.pop_front();
    run_until(task.after);
    try {
      if (task.work) task.work();
    } catch (...) {
      finish(task);
      throw;
    }
    finish(task);
  }
}

void run_some() {
  if (!shuffled) return;
  while (chance() % 2 == 0) {
    std::vector<StreamKey> ready;
    for (const auto& [stream, state] : streams) {
      if (!state.tasks.empty()) ready.push_back(stream);
    }
    if (ready.empty()) return;
    const StreamKey stream = ready[chance() % ready.size()];
    run_until({stream, streams[stream].tasks.front().number});
  }
}

void check_use(const char* what, const StreamState& state, StreamKey stream,
               const Allocation& block, bool writes) {
  const auto check = [&](const Point& point, const char* does) {
    TORCH_CHECK(point.stream == stream || after(state.seen, point), "emulated: ", what,
                " on ", stream.name(), " uses memory that work on ",
                point.stream.name(), " ", does, ", without an event between them");
  };
  check(block.written, "writes");
  if (!writes) return;
  for (const auto& [reader, number] : block.read) check({reader, number}, "reads");
}

// Gives the stream work with a number of its own, which may use these blocks.
Point give(const char* what, StreamKey stream, const std::vector<Use>& uses) {
  raise_faults();
  StreamState& state = streams[stream];
  merge(state.seen, host_seen);
  TORCH_CHECK(!captured || in_capture(state.seen), "emulated: ", what, " on ",
              stream.name(), " while ", captured->stream.name(),
              " is captured, which it does not wait for");
  const Point point{stream, state.given + 1};
  for (const Use& use : uses) {
    check_use(what, state, stream, *use.block, use.writes);
  }
  for (const Use& use : uses) {
    Allocation& block = *use.block;
    if (use.writes) {
      block.written = point;
      block.read.clear();
    } else {
      block.read[stream] = point.number;
    }
  }
  state.seen[stream] = ++state.given;
  return point;
}

Point last(StreamKey stream) {
  return {stream, streams[stream].given};
}

}  // namespace

std::recursive_mutex& lock() {
  static auto* mutex = new std::recursive_mutex();
  return *mutex;
}

int current_device() {
  return device_now;
}

void set_current_device(int device) {
  TORCH_CHECK(device >= 0 && device < kDevices, "emulated: no device ", device);
  device_now = device;
}

StreamKey current_stream(int device) {
  return {device, streams_now.at(device)};
}

void set_current_stream(StreamKey stream) {
  streams_now.at(stream.device) = stream.id;
}

StreamKey new_stream(int device) {
  static std::atomic<int64_t> made = 0;
  return {device, ++made};
}

void queue(const char* what, StreamKey stream, const std::vector<Use>& uses,
           std::function<void()> work) {
  ++counts[what].times;
  const Point point = give(what, stream, uses);
  Task task{point.number, std::move(work), {}, {}};
  for (const Use& use : uses) {
    ++use.block->pending;
    task.blocks.push_back(use.block);
  }
  streams[stream].tasks.push_back(std::move(task));
  run_some();
}

void begin(const char* what, StreamKey stream, const std::vector<Use>& uses,
           bool counted, int64_t bytes) {
  if (counted) add_count(what, 1, bytes);
  const Point point = give(what, stream, uses);
  run_some();
  run_until(point);
}

void add_count(const char* what, int64_t times, int64_t bytes) {
  Count& count = counts[what];
  count.times += times;
  count.bytes += bytes;
}

std::map<std::string, Count> take_counts() {
  return std::exchange(counts, {});
}

RecordedEvent record(StreamKey stream) {
  const Point point = give("an event", stream, {});
  return {point, streams[stream].seen};
}

void wait(StreamKey stream, const RecordedEvent& event) {
  StreamState& state = streams[stream];
  TORCH_CHECK(!in_capture(state.seen) || in_capture(event.seen),
              "emulated: ", stream.name(), ", which is captured, waits for work on ",
              event.point.stream.name(), ", which is not");
  merge(state.seen, event.seen);
  const Point point = give("a wait", stream, {});
  state.tasks.push_back({point.number, {}, {}, event.point});
}

void join(StreamKey one, StreamKey other) {
  if (one == other) return;
  const RecordedEvent first = record(one), second = record(other);
  wait(one, second);
  wait(other, first);
}

void synchronize(const RecordedEvent& event) {
  raise_faults();
  run_some();
  run_until(event.point);
  merge(host_seen, event.seen);
}

void synchronize(StreamKey stream) {
  merge(streams[stream].seen, host_seen);
  synchronize({last(stream), streams[stream].seen});
}

void synchronize_device(int device) {
  std::vector<StreamKey> all;
  for (const auto& [stream, state] : streams) {
    if (stream.device == device) all.push_back(stream);
  }
  for (const StreamKey& stream : all) synchronize(stream);
  raise_faults();
}

void* allocate(size_t bytes, int device) {
  const StreamKey stream = current_stream(device);
  TORCH_CHECK(!captured || in_capture(streams[stream].seen), "emulated: memory for ",
              stream.name(), ", outside the pool of ", captured->stream.name(),
              ", which is captured");
  void* made = reinterpret_cast<void*>(make_allocation(bytes, stream)->begin);
  AllocatedBytes& allocated = allocated_bytes(device);
  allocated.now += static_cast<int64_t>(bytes);
  allocated.peak = std::max(allocated.peak, allocated.now);
  return made;
}

AllocatedBytes& allocated_bytes(int device) {
  static auto* all = new std::array<AllocatedBytes, kDevices>();
  return all->at(device);
}

void release(void* data) {
  Allocation* block = find_allocation(reinterpret_cast<uintptr_t>(data));
  Seen seen = streams[block->stream].seen;
  merge(seen, host_seen);
  const auto check = [&](const Point& use) {
    if (use.stream == block->stream || block->recorded.count(use.stream) > 0 ||
        after(seen, use)) {
      return;
    }
    faults.push_back("emulated: memory of " + block->stream.name() +
                     " was freed while work on " + use.stream.name() +
                     " uses it, without record_stream or an event");
  };
  check(block->written);
  for (const auto& [reader, number] : block->read) check({reader, number});
  block->freed = true;
  allocated_bytes(block->stream.device).now -= static_cast<int64_t>(block->bytes);
  if (block->pending == 0) drop_allocation(block);
}

void record_stream(void* data, StreamKey stream) {
  Allocation* block = find_allocation(reinterpret_cast<uintptr_t>(data));
  if (block != nullptr) block->recorded.insert(stream);
}

void shuffle(uint64_t seed) {
  shuffled = seed != 0;
  chance.seed(seed);
}

void begin_capture(StreamKey stream) {
  synchronize_device(stream.device);
  TORCH_CHECK(!captured, "emulated: a stream is captured already");
  captured = give("a capture", stream, {});
}

void end_capture(StreamKey replaying) {
  TORCH_CHECK(captured, "emulated: no stream is captured");
  const StreamKey stream = captured->stream;
  std::vector<StreamKey> apart;
  for (const auto& [other, state] : streams) {
    const bool joined = after(streams[stream].seen, last(other));
    if (in_capture(state.seen) && !joined) apart.push_back(other);
  }
  captured.reset();
  wait(replaying, record(stream));
  give_allocations(stream, replaying);
  TORCH_CHECK(apart.empty(), "emulated: ", stream.name(),
              " was captured, and does not wait for the work on ", apart.front().name(),
              ", which waits for it");
}

bool capturing(StreamKey stream) {
  return captured && captured->stream == stream;
}

void not_captured(const char* what) {
  TORCH_CHECK(!captured, "emulated: ", what, " while a stream is captured");
}

void raise_faults() {
  if (faults.empty()) return;
  const std::string first = faults.front();
  faults.clear();
  TORCH_CHECK(false, first);
}

}  // namespace emulation
