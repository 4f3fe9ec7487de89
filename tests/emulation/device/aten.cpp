// PyTorch's own operators on an emulated device: memory, copies and views here, the
// rest computed by the CPU.

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "device/backend.h"

namespace emulation {
namespace {

using at::Tensor;
using Lock = std::lock_guard<std::recursive_mutex>;
using Sizes = c10::SymIntArrayRef;

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

c10::Device device_or_current(std::optional<at::Device> device) {
  if (device && device->has_index()) return *device;
  return {kType, static_cast<c10::DeviceIndex>(current_device())};
}

Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout>, std::optional<at::Device> device,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_generic(sizes, device_allocator(), kKeys,
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_strided_generic(sizes, strides, device_allocator(), kKeys,
                                           c10::dtype_or_default(dtype));
}

void grow(const Tensor& tensor) {
  const size_t bytes = at::detail::computeStorageNbytes(
      tensor.sizes(), tensor.strides(), tensor.dtype().itemsize(),
      tensor.storage_offset());
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  if (tensor.numel() > 0 && bytes > storage->nbytes()) resize_storage(storage, bytes);
}

const Tensor& resize(const Tensor& tensor, Sizes sizes,
                     std::optional<at::MemoryFormat> format) {
  if (tensor.sizes() != C10_AS_INTARRAYREF_SLOW(sizes)) {
    tensor.unsafeGetTensorImpl()->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(sizes));
  }
  if (format) tensor.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  grow(tensor);
  return tensor;
}

Tensor& set_storage(Tensor& tensor, at::Storage storage, c10::SymInt offset,
                    Sizes sizes, Sizes strides) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  const auto shape = C10_AS_INTARRAYREF_SLOW(sizes);
  if (strides.empty() && !sizes.empty()) {
    impl->set_storage_offset(offset.expect_int());
    impl->set_sizes_contiguous(shape);
  } else {
    impl->set_sizes_and_strides(shape, C10_AS_INTARRAYREF_SLOW(strides),
                                offset.expect_int());
  }
  grow(tensor);
  return tensor;
}

Tensor& set_whole_storage(Tensor& tensor, at::Storage storage) {
  const auto elements =
      static_cast<int64_t>(storage.nbytes() / tensor.dtype().itemsize());
  return set_storage(tensor, std::move(storage), 0, {c10::SymInt(elements)}, {});
}

Tensor& set_tensor(Tensor& tensor, const Tensor& source) {
  return set_storage(tensor, source.storage(), source.sym_storage_offset(),
                     source.sym_sizes(), source.sym_strides());
}

Tensor& set_nothing(Tensor& tensor) {
  const Tensor none = at::empty({0}, tensor.options());
  return set_tensor(tensor, none);
}

Tensor view(const Tensor& tensor, Sizes sizes) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(sizes));
}

Tensor as_strided(const Tensor& tensor, Sizes sizes, Sizes strides,
                  std::optional<c10::SymInt> offset) {
  std::optional<int64_t> from;
  if (offset) from = offset->expect_int();
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(sizes),
                                           C10_AS_INTARRAYREF_SLOW(strides), from);
}

Tensor reshape_alias(const Tensor& tensor, Sizes sizes, Sizes strides) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(sizes),
                                    C10_AS_INTARRAYREF_SLOW(strides));
}

// The host waits for the tensor's current stream.
void wait_for_host(const char* what, int device) {
  const Lock held(lock());
  not_captured(what);
  synchronize(current_stream(device));
}

Tensor copy_from(const Tensor& source, const Tensor& target, bool) {
  if (source.numel() == 0) return target;
  const bool to_device = target.device().type() == kType,
             from_device = source.device().type() == kType;
  if (to_device && from_device && source.device() != target.device()) {
    const Lock held(lock());
    join(current_stream(source.device().index()),
         current_stream(target.device().index()));
  } else if (!to_device || !from_device) {
    const Lock held(lock());
    not_captured("memory of the host is copied");
  }
  Borrowed to("a copy"), from("a copy", /*counted=*/!to_device);
  const Tensor lent_source = from_device ? from.lend(source, false) : source;
  const Tensor lent_target = to_device ? to.lend(target, true) : target;
  if (from_device) from.begin(source.device().index());
  if (to_device) to.begin(target.device().index());
  if (from_device && !to_device) {
    wait_for_host("memory of the host is copied", source.device().index());
  }
  lent_target.copy_(lent_source);
  if (from_device && to_device && source.device() != target.device()) {
    const Lock held(lock());
    join(current_stream(source.device().index()),
         current_stream(target.device().index()));
  }
  return target;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& target) {
  if (source.sizes() != target.sizes()) target.resize_(source.sizes());
  return copy_from(source, target, false);
}

at::Scalar local_scalar(const Tensor& tensor) {
  Borrowed from("item()");
  const Tensor lent = from.lend(tensor, false);
  from.begin(from.device());
  wait_for_host("the host reads a number", from.device());
  return lent.item();
}

void record_stream_of(Tensor& tensor, c10::Stream stream) {
  const Lock held(lock());
  record_stream(tensor.storage().mutable_data(), key_of(stream));
}

bool has_tag(const c10::OperatorHandle& op, at::Tag tag) {
  const auto tags = op.getTags();
  return std::find(tags.begin(), tags.end(), tag) != tags.end();
}

bool is_mask(const std::optional<Tensor>& index) {
  return index && index->defined() &&
         (index->scalar_type() == at::kBool || index->scalar_type() == at::kByte);
}

// Whether the host has to know numbers of the device. Of an index it has to know how
// many are set, where it is a mask; but a number is written to where one mask is set
// without that. CUDA's is then the host's, and no tensor of the device.
bool waits_for_numbers(const c10::OperatorHandle& op,
                       c10::ArrayRef<c10::IValue> given) {
  const auto indices = std::find_if(given.begin(), given.end(), [](const auto& one) {
    return one.isOptionalTensorList();
  });
  if (indices == given.end()) {
    return has_tag(op, at::Tag::data_dependent_output) ||
           has_tag(op, at::Tag::dynamic_output_shape);
  }
  const auto list = indices->toOptionalTensorVector();
  if (std::none_of(list.begin(), list.end(), is_mask)) return false;
  const auto values = std::next(indices);
  const bool one_number =
      values != given.end() && values->isTensor() && values->toTensor().dim() == 0;
  const auto given_indices = std::count_if(
      list.begin(), list.end(), [](const auto& one) { return one && one->defined(); });
  return !one_number || given_indices > 1;
}

// An argument for the CPU's operator.
c10::IValue lend(Borrowed& lent, const c10::Argument& argument,
                 const c10::IValue& value) {
  const bool writes = argument.alias_info() && argument.alias_info()->isWrite();
  if (value.isTensor()) return lent.lend(value.toTensor(), writes);
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& one : value.toTensorVector()) {
      list.push_back(lent.lend(one, writes));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& one : value.toOptionalTensorVector()) {
      list.push_back(one ? std::optional(lent.lend(*one, writes, true)) : one);
    }
    return list;
  }
  return value;
}

c10::IValue give_back(Borrowed& lent, const c10::IValue& value) {
  if (value.isTensor()) return lent.give_back(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& one : value.toTensorVector()) {
      list.push_back(lent.give_back(one));
    }
    return list;
  }
  return value;
}

void compute_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size();
  const size_t first = stack->size() - count;
  const std::string name = schema.name();
  // Nothing of ours is computed by the CPU's kernels in place of the device's.
  TORCH_CHECK(name.rfind("trajgru_ext::", 0) != 0, "emulated: ", name,
              " has no kernel for a device");
  Borrowed lent(name.c_str());
  int device = -1;
  for (size_t k = 0; k < count; ++k) {
    c10::IValue& value = (*stack)[first + k];
    if (value.isDevice()) {
      device = device_or_current(value.toDevice()).index();
      value = c10::Device(at::kCPU);
    } else {
      value = lend(lent, schema.arguments()[k], value);
    }
  }
  if (lent.device() < 0) {
    lent.lend(at::empty({0}, at::TensorOptions(c10::Device(
                                 kType, static_cast<c10::DeviceIndex>(
                                            device < 0 ? current_device() : device)))),
              false);
  }
  for (size_t k = 0; k < count; ++k) {
    c10::IValue& value = (*stack)[first + k];
    if (schema.arguments()[k].name() != "generator") continue;
    value = cpu_generator(
        value.isNone() ? std::nullopt : std::optional(value.toGenerator()),
        lent.device());
  }
  if (waits_for_numbers(op, c10::ArrayRef<c10::IValue>(*stack).slice(first))) {
    wait_for_host((name + " makes the host wait").c_str(), lent.device());
  }
  lent.begin(lent.device());
  round_factors(schema, stack);
  const Plain plain;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  lent.resize_written();
  for (size_t k = stack->size() - schema.returns().size(); k < stack->size(); ++k) {
    (*stack)[k] = give_back(lent, (*stack)[k]);
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("set_", &set_nothing);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("record_stream", &record_stream_of);
}

}  // namespace
}  // namespace emulation
