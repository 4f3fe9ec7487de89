#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>

#include "device/backend.h"

namespace emulation {

int64_t bytes_of(const at::Tensor& tensor) {
  int64_t bytes = static_cast<int64_t>(tensor.element_size());
  for (int64_t k = 0; k < tensor.dim(); ++k) {
    if (tensor.stride(k) != 0) bytes *= tensor.size(k);
  }
  return bytes;
}

at::Tensor Borrowed::lend(const at::Tensor& tensor, bool writes, bool lists) {
  if (!tensor.defined()) return tensor;
  if (tensor.device().type() != kType) {
    TORCH_CHECK(tensor.is_cpu() && (tensor.dim() == 0 || lists), "emulated: ", op_,
                " is given a tensor of ", tensor.device(), ", ", tensor.sizes(),
                ", beside those of a device");
    if (tensor.dim() > 0) not_captured("an index of the host is copied");
    return tensor;
  }
  TORCH_CHECK(device_ < 0 || device_ == tensor.device().index(), "emulated: ", op_,
              " is given tensors of both devices");
  device_ = tensor.device().index();
  for (Pair& pair : pairs_) {
    if (pair.own.is_same(tensor)) {
      pair.writes |= writes;
      return pair.lent;
    }
  }
  auto* own = tensor.storage().unsafeGetStorageImpl();
  c10::Storage& storage = storages_[own];
  if (!storage) {
    storage = c10::Storage(c10::Storage::use_byte_size_t(), own->nbytes(),
                           at::DataPtr(host_view(own->data()), at::kCPU),
                           c10::GetCPUAllocator(), /*resizable=*/true);
  }
  auto lent = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
      tensor.dtype());
  lent.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                    tensor.storage_offset());
  pairs_.push_back({tensor, lent, writes});
  return lent;
}

void Borrowed::begin(int device) {
  const std::lock_guard<std::recursive_mutex> held(lock());
  std::vector<Use> uses;
  int64_t bytes = 0;
  for (const Pair& pair : pairs_) {
    if (pair.own.numel() == 0) continue;
    bytes += bytes_of(pair.own);
    const void* data = pair.own.storage().data();
    Allocation* block = find_allocation(reinterpret_cast<uintptr_t>(data));
    if (block != nullptr) uses.push_back({block, pair.writes});
  }
  emulation::begin(op_, current_stream(device), uses, counted_, bytes);
}

at::Tensor Borrowed::give_back(const at::Tensor& result) {
  if (!result.defined() || !result.is_cpu()) return result;
  for (const Pair& pair : pairs_) {
    if (pair.lent.is_same(result)) return pair.own;
  }
  for (const Pair& pair : pairs_) {
    if (!pair.lent.storage().is_alias_of(result.storage())) continue;
    auto view = at::detail::make_tensor<c10::TensorImpl>(
        c10::TensorImpl::VIEW, c10::Storage(pair.own.storage()), pair.own.key_set(),
        result.dtype());
    view.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(),
                                                      result.storage_offset());
    return view;
  }
  const auto options = result.options().device(
      c10::Device(kType, static_cast<c10::DeviceIndex>(device_)));
  const at::Tensor made =
      result.is_non_overlapping_and_dense()
          ? at::empty_strided(result.sizes(), result.strides(), options)
          : at::empty_like(result, options, at::MemoryFormat::Contiguous);
  Borrowed target("a result", /*counted=*/false);
  const at::Tensor lent = target.lend(made, true);
  target.begin(device_);
  lent.copy_(result);
  if (counted_) add_count(op_, 0, bytes_of(made));
  return made;
}

void Borrowed::resize_written() {
  for (const Pair& pair : pairs_) {
    if (!pair.writes || pair.lent.sizes() == pair.own.sizes()) continue;
    pair.own.resize_(pair.lent.sizes());
    Borrowed target("a result", /*counted=*/false);
    const at::Tensor lent = target.lend(pair.own, true);
    target.begin(device_);
    lent.copy_(pair.lent);
  }
}

}  // namespace emulation
