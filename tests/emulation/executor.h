#pragma once

// Executes a CUDA grid on the host, in one of these ways:
//
//   fibers   one block after the other, its threads as fibers that take turns at
//            barriers and shuffles: deterministic and quick, for values, and under
//            AddressSanitizer and UndefinedBehaviorSanitizer;
//   threads  one thread of the system for each CUDA thread, two blocks at a time:
//            under ThreadSanitizer a missing barrier or a plain += across blocks is
//            reported as a data race;
//   shuffled fibers, but blocks, and the threads of each, begin in an order drawn anew
//            for every launch: what is added up in no fixed order is rounded otherwise
//            each time;
//   none     nothing is executed, whatever the sizes.
//
// The environment variable TRAJGRU_EMULATION chooses; fibers is the default. A
// barrier that some of the threads never reach is an error in both, and so is a launch
// that no hardware takes in all of them.

#include <ucontext.h>

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "shuffle.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

constexpr unsigned kWarp = 32;
// More has to be asked for, on every compute capability.
constexpr size_t kSharedBytes = 48 * 1024;

class Block;

// What one CUDA thread knows of itself.
struct Self {
  dim3 thread, block, block_dim, grid_dim;
  unsigned index = 0;  // of the thread within its block
  Block* shared = nullptr;
};

inline thread_local Self* self = nullptr;

// Called when the fibers of a block have ended, where somebody asks for it.
inline void (*block_done)() = nullptr;

struct Divergence : std::runtime_error {
  Divergence()
      : std::runtime_error("emulation: a barrier that not all threads reach") {}
};

// A barrier's state; who waits, and how, is the block's matter.
struct Barrier {
  unsigned expected = 0, arrived = 0;
  uint64_t generation = 0;
};

// The memory and the barriers of a block. Its threads wait by calling wait(), which
// either switches to another fiber or blocks the system's thread.
class Block {
 public:
  Block(unsigned threads, size_t dynamic_bytes)
      : dynamic_(allocate(dynamic_bytes)), warps_((threads + kWarp - 1) / kWarp) {
    block_.expected = threads;
    for (unsigned w = 0; w < warps_.size(); ++w) {
      warps_[w].barrier.expected = std::min(kWarp, threads - w * kWarp);
    }
  }
  virtual ~Block() = default;

  void sync_block() { sync(block_); }
  void sync_warp() { sync(warps_[self->index / kWarp].barrier); }

  // The value of another lane of the warp.
  template <typename T>
  T exchange(T value, unsigned lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Warp& warp = warps_[self->index / kWarp];
    std::memcpy(&warp.slot[self->index % kWarp], &value, sizeof(T));
    sync_warp();
    std::memcpy(&value, &warp.slot[lane], sizeof(T));
    sync_warp();
    return value;
  }

  unsigned char* dynamic_memory() { return dynamic_.get(); }

  // One allocation for each declaration (its key), so that a sanitizer sees its ends.
  unsigned char* static_memory(const void* key, size_t bytes) {
    const std::lock_guard<std::mutex> lock(statics_mutex_);
    auto& memory = statics_[key];
    if (memory == nullptr) memory = allocate(bytes);
    return memory.get();
  }

 protected:
  virtual void sync(Barrier& barrier) = 0;

  // Whether the caller was the last to come; then the next round begins.
  static bool arrive(Barrier& barrier) {
    if (++barrier.arrived < barrier.expected) return false;
    barrier.arrived = 0;
    ++barrier.generation;
    return true;
  }

 private:
  struct Warp {
    Barrier barrier;
    uint64_t slot[kWarp];
  };

  // All banks once.
  static constexpr std::align_val_t kSharedAlignment{128};

  struct Free {
    void operator()(unsigned char* memory) const {
      ::operator delete[](memory, kSharedAlignment);
    }
  };
  using Memory = std::unique_ptr<unsigned char[], Free>;

  // Shared memory is not initialised: as NaN, a read before a write shows.
  Memory allocate(size_t bytes) {
    shared_bytes_ += bytes;
    if (shared_bytes_ > kSharedBytes) {
      throw std::invalid_argument(
          "emulation: more shared memory than a block may have");
    }
    Memory memory(
        static_cast<unsigned char*>(::operator new[](bytes, kSharedAlignment)));
    std::memset(memory.get(), 0xff, bytes);
    return memory;
  }

  size_t shared_bytes_ = 0;
  Memory dynamic_;
  std::mutex statics_mutex_;
  std::map<const void*, Memory> statics_;
  Barrier block_;
  std::vector<Warp> warps_;
};

using Body = std::function<void()>;

inline Self thread_of(unsigned index, dim3 block, dim3 grid_dim, dim3 block_dim,
                      Block* shared) {
  Self self;
  self.thread = dim3(index % block_dim.x, index / block_dim.x % block_dim.y,
                     index / (block_dim.x * block_dim.y));
  self.block = block;
  self.block_dim = block_dim;
  self.grid_dim = grid_dim;
  self.index = index;
  self.shared = shared;
  return self;
}

class FiberBlock : public Block {
 public:
  FiberBlock(dim3 block, dim3 grid_dim, dim3 block_dim, size_t dynamic_bytes,
             const Body& body, bool shuffled)
      : Block(block_dim.x * block_dim.y * block_dim.z, dynamic_bytes),
        fibers_(block_dim.x * block_dim.y * block_dim.z),
        order_(order(block_dim.x * block_dim.y * block_dim.z, shuffled)),
        body_(body) {
    for (unsigned t = 0; t < fibers_.size(); ++t) {
      Fiber& fiber = fibers_[t];
      fiber.self = thread_of(t, block, grid_dim, block_dim, this);
      fiber.stack = stack(t);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack;
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &FiberBlock::enter, 0);
    }
  }

  void run() {
    Self* const outer = self;
    progress_ = true;
    for (unsigned left = fibers_.size(); left > 0;) {
      // A round in which nobody ended and no barrier opened will repeat for ever.
      if (!progress_) throw Divergence();
      progress_ = false;
      for (const unsigned t : order_) {
        Fiber& fiber = fibers_[t];
        if (fiber.done) continue;
        resume(fiber);
        if (fiber.done) {
          --left;
          progress_ = true;
        }
      }
    }
    self = outer;
    if (block_done != nullptr) block_done();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // Sanitizers want room.
  static constexpr size_t kStackBytes = 1 << 18;

  struct Fiber {
    ucontext_t context;
    Self self;
    char* stack = nullptr;
    void* fake_stack = nullptr;
    bool done = false;
  };

  static char* stack(unsigned index) {
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= index) stacks.emplace_back(new char[kStackBytes]);
    return stacks[index].get();
  }

  void sync(Barrier& barrier) override {
    const uint64_t generation = barrier.generation;
    if (arrive(barrier)) progress_ = true;
    while (barrier.generation == generation) leave();
  }

  void resume(Fiber& fiber) {
    current_ = &fiber;
    running_ = this;
    self = &fiber.self;
    void* fake_stack = nullptr;
    start_switch(&fake_stack, fiber.stack, kStackBytes);
    swapcontext(&scheduler_, &fiber.context);
    finish_switch(fake_stack, nullptr, nullptr);
  }

  void leave() {
    Fiber& fiber = *current_;
    start_switch(fiber.done ? nullptr : &fiber.fake_stack, scheduler_stack_,
                 scheduler_bytes_);
    swapcontext(&fiber.context, &scheduler_);
    finish_switch(fiber.fake_stack, &scheduler_stack_, &scheduler_bytes_);
  }

  static void enter() {
    FiberBlock& block = *running_;
    finish_switch(nullptr, &block.scheduler_stack_, &block.scheduler_bytes_);
    try {
      block.body_();
    } catch (...) {
      if (!block.failure_) block.failure_ = std::current_exception();
    }
    block.current_->done = true;
    block.leave();
  }

#if defined(__SANITIZE_ADDRESS__)
  static void start_switch(void** fake, const void* bottom, size_t bytes) {
    __sanitizer_start_switch_fiber(fake, bottom, bytes);
  }
  static void finish_switch(void* fake, const void** bottom, size_t* bytes) {
    __sanitizer_finish_switch_fiber(fake, bottom, bytes);
  }
#else
  static void start_switch(void**, const void*, size_t) {}
  static void finish_switch(void*, const void**, size_t*) {}
#endif

  inline static thread_local FiberBlock* running_ = nullptr;

  std::vector<Fiber> fibers_;
  const std::vector<unsigned> order_;
  const Body& body_;
  ucontext_t scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;
  Fiber* current_ = nullptr;
  bool progress_ = false;
  std::exception_ptr failure_;
};

class ThreadBlock : public Block {
 public:
  ThreadBlock(dim3 block, dim3 grid_dim, dim3 block_dim, size_t dynamic_bytes,
              const Body& body)
      : Block(block_dim.x * block_dim.y * block_dim.z, dynamic_bytes),
        running_(block_dim.x * block_dim.y * block_dim.z) {
    for (unsigned t = 0, count = running_; t < count; ++t) {
      threads_.emplace_back([=, this, &body] {
        Self me = thread_of(t, block, grid_dim, block_dim, this);
        self = &me;
        std::exception_ptr failure;
        try {
          body();
        } catch (...) {
          failure = std::current_exception();
        }
        const std::lock_guard<std::mutex> lock(mutex_);
        if (failure && !failure_) failure_ = failure;
        stop_running();
      });
    }
  }

  void join() {
    for (std::thread& thread : threads_) thread.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void sync(Barrier& barrier) override {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t generation = barrier.generation;
    if (arrive(barrier)) {
      running_ += barrier.expected - 1;
      wake_.notify_all();
      return;
    }
    stop_running();
    wake_.wait(lock, [&] { return stuck_ || barrier.generation != generation; });
    if (barrier.generation == generation) throw Divergence();
  }

  // Where nobody runs any more, those who wait will wait for ever.
  void stop_running() {
    if (--running_ == 0) {
      stuck_ = true;
      wake_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  unsigned running_;
  bool stuck_ = false;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

inline dim3 block_of(unsigned index, dim3 grid) {
  return dim3(index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y));
}

inline std::string executor() {
  const char* chosen = std::getenv("TRAJGRU_EMULATION");
  return chosen == nullptr ? "fibers" : chosen;
}

inline void execute(dim3 grid, dim3 block, size_t shared_bytes, const Body& body) {
  const std::string chosen = executor();
  if (chosen == "none") return;
  const unsigned blocks = grid.x * grid.y * grid.z;
  if (const bool shuffled = chosen == "shuffled"; shuffled || chosen == "fibers") {
    for (const unsigned b : order(blocks, shuffled)) {
      FiberBlock(block_of(b, grid), grid, block, shared_bytes, body, shuffled).run();
    }
  } else if (chosen == "threads") {
    for (unsigned b = 0; b < blocks; b += 2) {
      std::unique_ptr<ThreadBlock> pair[2];
      for (unsigned n = 0; n < 2 && b + n < blocks; ++n) {
        pair[n] = std::make_unique<ThreadBlock>(block_of(b + n, grid), grid, block,
                                                shared_bytes, body);
      }
      std::exception_ptr failure;
      for (auto& one : pair) {
        try {
          if (one) one->join();
        } catch (...) {
          failure = std::current_exception();
        }
      }
      if (failure) std::rethrow_exception(failure);
    }
  } else {
    throw std::invalid_argument(
        "emulation: TRAJGRU_EMULATION must be fibers, shuffled, threads or none");
  }
}

}  // namespace emulation
