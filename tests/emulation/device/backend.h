#pragma once

// What the emulated device's parts know of each other, and of PyTorch.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>

#include <optional>

#include "device/streams.h"

namespace emulation {

constexpr auto kType = c10::DeviceType::PrivateUse1;

StreamKey key_of(const c10::Stream& stream);
at::Allocator* device_allocator();

// The CPU's generator within a device's, which its default one is where none is given.
at::Generator cpu_generator(const std::optional<at::Generator>& generator,
                            int64_t device);

// The bytes of a tensor's elements, those of an expanded dimension once.
int64_t bytes_of(const at::Tensor& tensor);

// With the old contents.
void resize_storage(c10::StorageImpl* storage, size_t bytes);

// A float32 tensor rounded to the ten bits of TF32, to which a GPU rounds the operands
// of convolutions and products where it is allowed to; any other as it is.
at::Tensor round_to_tf32(const at::Tensor& tensor);

// The factors of a product of matrices, among an operator's arguments, as cuBLAS rounds
// them.
void round_factors(const c10::FunctionSchema& schema, torch::jit::Stack* stack);

// While what the CPU computes is neither recorded nor cast.
struct Plain {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// Tensors of a device as the CPU's operators see them: the same memory, by the mapping
// that the host may use.
class Borrowed {
 public:
  // counted: whether it is work that a device would be given.
  explicit Borrowed(const char* op, bool counted = true) : op_(op), counted_(counted) {}

  // A tensor of the CPU must be a number (`lists`: or an index), as for CUDA.
  at::Tensor lend(const at::Tensor& tensor, bool writes, bool lists = false);

  // Waits for what the current stream must do before.
  void begin(int device);

  // What an operator made of lent tensors, on the device.
  at::Tensor give_back(const at::Tensor& result);

  // The device's tensors have the sizes that the operator gave those it wrote to.
  void resize_written();

  int device() const { return device_; }

 private:
  struct Pair {
    at::Tensor own, lent;
    bool writes;
  };

  const char* op_;
  const bool counted_;
  int device_ = -1;
  std::vector<Pair> pairs_;
  std::map<const c10::StorageImpl*, c10::Storage> storages_;  // lent, by the device's
};

}  // namespace emulation
