// What PyTorch asks of a device: allocator, guard with streams and events, hooks,
// generators; and torch.ops.emulated, by which device.py reaches the rest.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstring>

#include "cuda/chunk_rows.h"
#include "cuda/fused_tiles.h"
#include "device/backend.h"
#include "launch.h"

namespace emulation {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

struct Allocator final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    const Lock held(lock());
    const int device = current_device();
    void* data = bytes == 0 ? nullptr : emulation::allocate(bytes, device);
    return {data, data, &release, at::Device(kType, device)};
  }
  static void release(void* data) {
    const Lock held(lock());
    if (data != nullptr) emulation::release(data);
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const Lock held(lock());
    const Allocation *target = find_allocation(reinterpret_cast<uintptr_t>(to)),
                     *source = find_allocation(reinterpret_cast<uintptr_t>(from));
    begin("a copy", current_stream(target->stream.device),
          {{const_cast<Allocation*>(source), false},
           {const_cast<Allocation*>(target), true}});
    std::memcpy(host_view(to), host_view(from), bytes);
  }
};

Allocator memory;
REGISTER_ALLOCATOR(kType, &memory);

c10::Stream as_stream(StreamKey key) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, key.device), key.id);
}

RecordedEvent& as_event(void* event) {
  return *static_cast<RecordedEvent*>(event);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device getDevice() const override { return {kType, index()}; }
  void setDevice(c10::Device device) const override {
    set_current_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) set_current_device(device.index());
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    if (device.index() >= 0) set_current_device(device.index());
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Stream getStream(c10::Device device) const override {
    return as_stream(current_stream(number(device)));
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return as_stream({number(device), 0});
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return as_stream(new_stream(number(device)));
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return as_stream(new_stream(number(device)));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = getStream(stream.device());
    set_current_stream(key_of(stream));
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override {
    return synchronizeStream(stream), true;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    const Lock held(lock());
    not_captured("the host waits for a stream");
    synchronize(key_of(stream));
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    const Lock held(lock());
    not_captured("the host waits for a device");
    synchronize_device(device);
  }
  // Not "override": older torch does not ask.
  bool isStreamCapturing(const c10::Stream& stream) const {
    const Lock held(lock());
    return capturing(key_of(stream));
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    const Lock held(lock());
    if (*event == nullptr) *event = new RecordedEvent();
    as_event(*event) = emulation::record(key_of(stream));
  }
  void block(void* event, const c10::Stream& stream) const override {
    const Lock held(lock());
    if (event != nullptr) wait(key_of(stream), as_event(event));
  }
  bool queryEvent(void* event) const override { return synchronizeEvent(event), true; }
  void synchronizeEvent(void* event) const override {
    const Lock held(lock());
    not_captured("the host waits for an event");
    if (event != nullptr) synchronize(as_event(event));
  }
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 1; }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<RecordedEvent*>(event);
  }
  void recordDataPtrOnStream(const c10::DataPtr& data,
                             const c10::Stream& stream) const override {
    const Lock held(lock());
    record_stream(data.get(), key_of(stream));
  }

 private:
  static c10::DeviceIndex index() {
    return static_cast<c10::DeviceIndex>(current_device());
  }
  static int number(c10::Device device) {
    return device.has_index() ? device.index() : current_device();
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// A generator of the CPU, that a device has for its own.
struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(c10::DeviceIndex device)
      : GeneratorImpl(c10::Device(kType, device),
                      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        cpu(at::detail::createCPUGenerator()) {}

  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed); }
  uint64_t current_seed() const override { return cpu.current_seed(); }
  uint64_t seed() override { return cpu.seed(); }
  void set_offset(uint64_t offset) override { cpu.set_offset(offset); }
  uint64_t get_offset() const override { return cpu.get_offset(); }
  void set_state(const c10::TensorImpl& state) override {
    cpu.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return cpu.unsafeGetGeneratorImpl()->get_state();
  }
  GeneratorImpl* clone_impl() const override {
    auto* made = new DeviceGenerator(device().index());
    made->cpu = cpu.clone();
    return made;
  }

  at::Generator cpu;
};

at::Generator& default_generator(int64_t device) {
  static auto* made = new std::array<at::Generator, kDevices>{
      at::make_generator<DeviceGenerator>(c10::DeviceIndex(0)),
      at::make_generator<DeviceGenerator>(c10::DeviceIndex(1))};
  return made->at(device < 0 ? current_device() : device);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override {
    return static_cast<c10::DeviceIndex>(current_device());
  }
  void setCurrentDevice(c10::DeviceIndex device) const override {
    set_current_device(device);
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    const auto before = getCurrentDevice();
    set_current_device(device);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return device < 0 ? getCurrentDevice() : exchangeDevice(device);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override {
    return default_generator(device);
  }
  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return at::make_generator<DeviceGenerator>(device < 0 ? getCurrentDevice()
                                                          : device);
  }
  at::Device getDeviceFromPtr(void* data) const override {
    const int device = device_of(reinterpret_cast<uintptr_t>(data));
    TORCH_CHECK(device >= 0, "emulated: no memory of a device");
    return {kType, static_cast<c10::DeviceIndex>(device)};
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage,
                              size_t bytes) const override {
    resize_storage(storage.unsafeGetStorageImpl(), bytes);
  }
};

const bool registered = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);

// The blocks that a kernel's arguments point into.
std::vector<Use> uses_of(const std::vector<Pointer>& pointers, int device) {
  std::vector<Use> uses;
  for (const auto& [address, writes] : pointers) {
    const int owner = device_of(address);
    TORCH_CHECK(owner >= 0, "emulated: a kernel of emulated:", device,
                " is given memory of the host");
    TORCH_CHECK(owner == device, "emulated: a kernel of emulated:", device,
                " is given memory of emulated:", owner);
    Allocation* block = find_allocation(address);
    TORCH_CHECK(block != nullptr && !block->freed,
                "emulated: a kernel is given memory that was freed");
    uses.push_back({block, writes});
  }
  return uses;
}

void submit(Stream stream, const std::vector<Pointer>& pointers, Body kernel) {
  const Lock held(lock());
  const int device = current_device();
  const StreamKey key{stream.device, stream.id};
  TORCH_CHECK(key == current_stream(device), "emulated: a kernel on ", key.name(),
              " where ", current_stream(device).name(), " is the current one");
  queue("a kernel", key, uses_of(pointers, device),
        [device, kernel = std::move(kernel)] {
          const Open open(device);
          kernel();
        });
}

Stream stream_now() {
  const StreamKey now = current_stream(current_device());
  return {now.device, now.id};
}

const bool submits = (emulation::device = DeviceHost{&stream_now, &submit}, true);

TORCH_LIBRARY(emulated, m) {
  m.def("shuffle(int seed) -> ()", [](int64_t seed) {
    const Lock held(lock());
    shuffle(seed);
  });
  m.def("counts() -> (str[], int[], int[])", [] {
    const Lock held(lock());
    std::vector<std::string> names;
    std::vector<int64_t> times, bytes;
    for (const auto& [name, count] : take_counts()) {
      names.push_back(name);
      times.push_back(count.times);
      bytes.push_back(count.bytes);
    }
    return std::make_tuple(names, times, bytes);
  });
  m.def("allocated_bytes(int device) -> (int, int)", [](int64_t device) {
    const Lock held(lock());
    const AllocatedBytes& bytes = allocated_bytes(static_cast<int>(device));
    return std::make_tuple(bytes.now, bytes.peak);
  });
  m.def("reset_peak(int device) -> ()", [](int64_t device) {
    const Lock held(lock());
    AllocatedBytes& bytes = allocated_bytes(static_cast<int>(device));
    bytes.peak = bytes.now;
  });
  m.def("capture(bool on) -> ()", [](bool on) {
    const Lock held(lock());
    if (on) {
      begin_capture(current_stream(current_device()));
    } else {
      end_capture(current_stream(current_device()));
    }
  });
  m.def("chunk_rows(int row_bytes, int outputs, int[] limits) -> int",
        [](int64_t row_bytes, int64_t outputs, at::IntArrayRef limits) {
          return trajgru_ext::cuda::chunk_rows(
              row_bytes, outputs, {limits.at(0), limits.at(1), limits.at(2)});
        });
  m.def("tiles_pay(int[] sizes, int multiprocessors) -> bool",
        [](at::IntArrayRef sizes, int64_t multiprocessors) {
          return trajgru_ext::cuda::tiles_pay({sizes.at(0), sizes.at(1), sizes.at(2),
                                               sizes.at(3), sizes.at(4), sizes.at(5)},
                                              multiprocessors);
        });
  m.def("manual_seed(int seed) -> ()", [](int64_t seed) {
    for (int k = 0; k < kDevices; ++k) default_generator(k).set_current_seed(seed);
  });
  m.def("get_rng_state(int device) -> Tensor",
        [](int64_t device) { return default_generator(device).get_state(); });
  m.def("set_rng_state(int device, Tensor state) -> ()",
        [](int64_t device, const at::Tensor& state) {
          default_generator(device).set_state(state);
        });
}

}  // namespace

StreamKey key_of(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

at::Allocator* device_allocator() {
  return &memory;
}

at::Generator cpu_generator(const std::optional<at::Generator>& generator,
                            int64_t device) {
  const at::Generator& given = generator ? *generator : default_generator(device);
  if (given.device().type() == at::kCPU) return given;
  return static_cast<DeviceGenerator*>(given.unsafeGetGeneratorImpl())->cpu;
}

void resize_storage(c10::StorageImpl* storage, size_t bytes) {
  const c10::DeviceGuard guard(storage->device());
  at::DataPtr data = memory.allocate(bytes);
  const size_t kept = std::min(bytes, storage->nbytes());
  if (kept > 0) memory.copy_data(data.get(), storage->data(), kept);
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

}  // namespace emulation
