// PyTorch's own operators on an emulated device: memory, copies and views here, the
// rest computed by the CPU.

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_convolution_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ScopeExit.h>
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

// An operand of a convolution.
Tensor operand(Borrowed& lent, const Tensor& tensor) {
  const Tensor found = lent.lend(tensor, false);
  return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV) ? round_to_tf32(found)
                                                                 : found;
}

struct Plain {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// Whether a convolution may round float32 to TF32, as _convolution is told.
thread_local bool tf32_convolution = false;

Tensor convolution_as_told(const Tensor& input, const Tensor& weight,
                           const std::optional<Tensor>& bias, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation,
                           bool transposed, at::IntArrayRef output_padding,
                           int64_t groups, bool benchmark, bool deterministic,
                           bool cudnn, bool tf32) {
  const bool before = std::exchange(tf32_convolution, tf32);
  const auto restore = c10::make_scope_exit([&] { tf32_convolution = before; });
  Tensor found = at::native::_convolution(input, weight, std::nullopt, stride, padding,
                                          dilation, transposed, output_padding, groups,
                                          benchmark, deterministic, cudnn, tf32);
  if (bias && bias->defined()) {  // which cuDNN leaves to PyTorch
    std::vector<int64_t> sizes(found.dim(), 1);
    sizes[1] = bias->size(0);
    found.add_(bias->view(sizes));
  }
  return found;
}

Tensor convolution(const Tensor& input, const Tensor& weight,
                   const std::optional<Tensor>& bias, Sizes stride, Sizes padding,
                   Sizes dilation, bool transposed, Sizes output_padding,
                   c10::SymInt groups) {
  const Plain plain;
  Borrowed lent("convolution");
  Tensor x = lent.lend(input, false);
  Tensor w = lent.lend(weight, false);
  std::optional<Tensor> b;
  if (bias && bias->defined()) b = lent.lend(*bias, false);
  lent.begin(lent.device());
  if (tf32_convolution) {
    x = round_to_tf32(x);
    w = round_to_tf32(w);
  }
  return lent.give_back(at::convolution_symint(x, w, b, stride, padding, dilation,
                                               transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, Sizes stride,
    Sizes padding, Sizes dilation, bool transposed, Sizes output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  const Plain plain;
  Borrowed lent("convolution_backward");
  for (const Tensor& one : {grad, input, weight}) lent.lend(one, false);
  lent.begin(lent.device());
  const Tensor g = operand(lent, grad), x = operand(lent, input),
               w = operand(lent, weight);
  const c10::SymInt outputs = transposed ? w.sym_size(1) * groups : w.sym_size(0);
  const auto [to_input, to_weight, to_bias] = at::convolution_backward_symint(
      g, x, w, at::OptionalSymIntArrayRef({outputs}), stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  return {lent.give_back(to_input), lent.give_back(to_weight), lent.give_back(to_bias)};
}

// Products of less than float32, to sums of float32, which the CPU does not have.
Tensor& addmm_to(const char* name, const std::optional<Tensor>& sum, const Tensor& a,
                 const Tensor& b, const at::Scalar& beta, const at::Scalar& alpha,
                 at::ScalarType dtype, Tensor& result) {
  const Plain plain;
  TORCH_CHECK(dtype == at::kFloat && result.scalar_type() == dtype &&
                  (!sum || sum->scalar_type() == dtype) && a.element_size() == 2 &&
                  b.scalar_type() == a.scalar_type(),
              "emulated: ", name, " has no such dtypes");
  Borrowed lent(name);
  const Tensor to = lent.lend(result, true);
  const Tensor from = sum ? lent.lend(*sum, false) : to;
  const Tensor one = lent.lend(a, false), other = lent.lend(b, false);
  lent.begin(lent.device());
  const Tensor product = at::mm(one.to(dtype), other.to(dtype)).mul_(alpha);
  to.copy_(sum ? from.mul(beta).add_(product) : product);
  return result;
}

Tensor& mm_dtype_out(const Tensor& a, const Tensor& b, at::ScalarType dtype,
                     Tensor& result) {
  return addmm_to("aten::mm", std::nullopt, a, b, 0, 1, dtype, result);
}

Tensor& addmm_dtype_out(const Tensor& sum, const Tensor& a, const Tensor& b,
                        at::ScalarType dtype, const at::Scalar& beta,
                        const at::Scalar& alpha, Tensor& result) {
  return addmm_to("aten::addmm", sum, a, b, beta, alpha, dtype, result);
}

bool has_tag(const c10::OperatorHandle& op, at::Tag tag) {
  const auto tags = op.getTags();
  return std::find(tags.begin(), tags.end(), tag) != tags.end();
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

// Whether cuBLAS would round what is multiplied.
bool products_round() {
  return !at::NoTF32Guard::should_disable_tf32() &&
         at::globalContext().float32Precision(at::Float32Backend::CUDA,
                                              at::Float32Op::MATMUL) ==
             at::Float32Precision::TF32;
}

// The factors of a product of matrices, among the CPU's operator's arguments.
void round_operands(const c10::FunctionSchema& schema, torch::jit::Stack* stack) {
  const std::string& name = schema.name();
  const bool whole = name == "aten::mm" || name == "aten::bmm";
  if (!whole && name != "aten::addmm" && name != "aten::baddbmm") return;
  const size_t first = stack->size() - schema.arguments().size();
  for (size_t k = 0; k < schema.arguments().size(); ++k) {
    const std::string& argument = schema.arguments()[k].name();
    const bool factor = argument == "self" ? whole : argument != "out";
    c10::IValue& value = (*stack)[first + k];
    if (factor && value.isTensor()) value = round_to_tf32(value.toTensor());
  }
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
  if (has_tag(op, at::Tag::data_dependent_output) ||
      has_tag(op, at::Tag::dynamic_output_shape)) {
    wait_for_host((name + " makes the host wait").c_str(), lent.device());
  }
  lent.begin(lent.device());
  if (products_round()) round_operands(schema, stack);
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
  m.impl("mm.dtype_out", &mm_dtype_out);
  m.impl("addmm.dtype_out", &addmm_dtype_out);
  m.impl("_convolution", &convolution_as_told);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace
}  // namespace emulation
